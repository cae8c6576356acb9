package api

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/daemon/store"

	"cmkd/testenv/rig"
)

// stateRow is how an operation of the table is called.
type stateRow struct {
	kind keyKind // the zero value is symmetricKind
	// prepare runs while the key is Enabled, or PendingImport if it never
	// becomes so.
	prepare func(t *testing.T, k *stateKey)
	call    func(ctx context.Context, k *stateKey) error
}

const (
	lifetime  = types.ExpirationModelTypeKeyMaterialDoesNotExpire
	hmac256   = types.MacAlgorithmSpecHmacSha256
	ecdsa256  = types.SigningAlgorithmSpecEcdsaSha256
	oaepSHA1  = types.AlgorithmSpecRsaesOaepSha1
	spec2048  = types.WrappingKeySpecRsa2048
	p256Pair  = types.DataKeyPairSpecEccNistP256
	oneDay    = int32(7)
	newPeriod = int32(180)
)

var aMessage = []byte("a message")

// stateRows are the operations of the table, by name.
var stateRows = map[string]stateRow{
	"CancelKeyDeletion": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: &k.id}))
	}},
	"CreateAlias": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/new-" + k.id), TargetKeyId: &k.id}))
	}},
	"CreateGrant": {call: func(ctx context.Context, k *stateKey) error { return rig.ErrOf(k.grant(ctx)) }},
	"Decrypt": {prepare: withBlob, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.Decrypt(ctx, &kms.DecryptInput{KeyId: &k.id, CiphertextBlob: k.blob}))
	}},
	"DeleteAlias": {prepare: withAlias, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: &k.alias}))
	}},
	"DeleteImportedKeyMaterial": {kind: importedKind, prepare: withMaterial, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &k.id}))
	}},
	"DescribeKey": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &k.id}))
	}},
	"DisableKey": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &k.id}))
	}},
	"DisableKeyRotation": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: &k.id}))
	}},
	"EnableKey": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &k.id}))
	}},
	"EnableKeyRotation": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &k.id, RotationPeriodInDays: aws.Int32(newPeriod)}))
	}},
	"Encrypt": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.Encrypt(ctx, &kms.EncryptInput{KeyId: &k.id, Plaintext: aMessage}))
	}},
	"GenerateDataKey": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &k.id, KeySpec: types.DataKeySpecAes256, Recipient: toTests().info()}))
	}},
	"GenerateDataKeyPair": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &k.id, KeyPairSpec: p256Pair, Recipient: toTests().info()}))
	}},
	"GenerateDataKeyPairWithoutPlaintext": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: &k.id, KeyPairSpec: p256Pair}))
	}},
	"GenerateDataKeyWithoutPlaintext": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: &k.id, KeySpec: types.DataKeySpecAes256}))
	}},
	"GenerateMac": {kind: macKind, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: &k.id, MacAlgorithm: hmac256, Message: aMessage}))
	}},
	"GetKeyPolicy": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &k.id}))
	}},
	"GetKeyRotationStatus": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &k.id}))
	}},
	"GetParametersForImport": {kind: importedKind, prepare: withMaterial, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: &k.id, WrappingAlgorithm: oaepSHA1, WrappingKeySpec: spec2048}))
	}},
	"GetPublicKey": {kind: signingKind, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &k.id}))
	}},
	"ImportKeyMaterial": {kind: importedKind, prepare: withImportAgain, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{KeyId: &k.id, ImportToken: k.token, EncryptedKeyMaterial: k.proof, ExpirationModel: lifetime}))
	}},
	"ListAliases": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.ListAliases(ctx, &kms.ListAliasesInput{KeyId: &k.id}))
	}},
	"ListGrants": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &k.id}))
	}},
	"ListKeyPolicies": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.ListKeyPolicies(ctx, &kms.ListKeyPoliciesInput{KeyId: &k.id}))
	}},
	"ListResourceTags": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &k.id}))
	}},
	"PutKeyPolicy": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &k.id, Policy: aws.String(accountPolicy)}))
	}},
	"ReEncrypt": {prepare: withBlob, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: k.blob, DestinationKeyId: &k.id}))
	}},
	"ReplicateKey": {kind: primaryKind, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &k.id, ReplicaRegion: aws.String(otherRegion)}))
	}},
	"RetireGrant": {prepare: withGrant, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: &k.grantToken}))
	}},
	"RevokeGrant": {prepare: withGrant, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &k.id, GrantId: &k.grantID}))
	}},
	"ScheduleKeyDeletion": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &k.id, PendingWindowInDays: aws.Int32(oneDay)}))
	}},
	"Sign": {kind: signingKind, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.Sign(ctx, &kms.SignInput{KeyId: &k.id, Message: aMessage, SigningAlgorithm: ecdsa256}))
	}},
	"TagResource": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.TagResource(ctx, &kms.TagResourceInput{KeyId: &k.id, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}}))
	}},
	"UntagResource": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.UntagResource(ctx, &kms.UntagResourceInput{KeyId: &k.id, TagKeys: []string{"a"}}))
	}},
	"UpdateAlias": {prepare: withAlias, call: updateAliasAway},
	"UpdateKeyDescription": {call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &k.id, Description: aws.String("new")}))
	}},
	"UpdatePrimaryRegion": {kind: primaryKind, prepare: withReplica, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.UpdatePrimaryRegion(ctx, &kms.UpdatePrimaryRegionInput{KeyId: &k.id, PrimaryRegion: aws.String(otherRegion)}))
	}},
	"Verify": {kind: signingKind, prepare: withSignature, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.Verify(ctx, &kms.VerifyInput{KeyId: &k.id, Message: aMessage, Signature: k.proof, SigningAlgorithm: ecdsa256}))
	}},
	"VerifyMac": {kind: macKind, prepare: withMAC, call: func(ctx context.Context, k *stateKey) error {
		return rig.ErrOf(k.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: &k.id, MacAlgorithm: hmac256, Message: aMessage, Mac: k.proof}))
	}},
}

func (k *stateKey) grant(ctx context.Context) (*kms.CreateGrantOutput, error) {
	return k.CreateGrant(ctx, &kms.CreateGrantInput{
		KeyId: &k.id, GranteePrincipal: aws.String(someone), Operations: []types.GrantOperation{types.GrantOperationDescribeKey},
	})
}

func updateAliasAway(ctx context.Context, k *stateKey) error {
	made, err := k.CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		return err
	}
	return rig.ErrOf(k.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &k.alias, TargetKeyId: made.KeyMetadata.KeyId}))
}

// withBlob leaves a ciphertext. A key pending import had material when it made
// it.
func withBlob(t *testing.T, k *stateKey) {
	t.Helper()
	if k.state == "PendingImport" {
		giveMaterial(t, k)
	}
	out, err := k.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &k.id, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	k.blob = out.CiphertextBlob
	if k.state == "PendingImport" {
		if _, err := k.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &k.id}); err != nil {
			t.Fatal(err)
		}
	}
}

func withAlias(t *testing.T, k *stateKey) {
	t.Helper()
	k.alias = "alias/of-" + k.id
	if _, err := k.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &k.alias, TargetKeyId: &k.id}); err != nil {
		t.Fatal(err)
	}
}

// withGrant leaves a grant. A key that never has material cannot have one: its
// row is put into the store.
func withGrant(t *testing.T, k *stateKey) {
	t.Helper()
	out, err := k.grant(t.Context())
	if rig.Code(err) == "KMSInvalidStateException" {
		k.setKey(t, k.id, func(row *store.Key) { row.State = "Enabled" })
		out, err = k.grant(t.Context())
		k.setKey(t, k.id, func(row *store.Key) { row.State = "PendingImport" })
	}
	if err != nil {
		t.Fatal(err)
	}
	k.grantID, k.grantToken = *out.GrantId, *out.GrantToken
}

func withSignature(t *testing.T, k *stateKey) {
	t.Helper()
	out, err := k.Sign(t.Context(), &kms.SignInput{KeyId: &k.id, Message: aMessage, SigningAlgorithm: ecdsa256})
	if err != nil {
		k.proof = []byte("no signature")
		return
	}
	k.proof = out.Signature
}

func withMAC(t *testing.T, k *stateKey) {
	t.Helper()
	out, err := k.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &k.id, MacAlgorithm: hmac256, Message: aMessage})
	if err != nil {
		k.proof = []byte("no MAC")
		return
	}
	k.proof = out.Mac
}

func withReplica(t *testing.T, k *stateKey) {
	t.Helper()
	out, err := k.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &k.id, ReplicaRegion: aws.String(otherRegion)})
	if rig.Code(err) == "KMSInvalidStateException" {
		return // pending import, and refused for that
	}
	if err != nil {
		t.Fatal(err)
	}
	if out.ReplicaKeyMetadata.KeyState != types.KeyStateCreating {
		t.Errorf("the replica is %s at first, want Creating", out.ReplicaKeyMetadata.KeyState)
	}
}

// withMaterial imports key material.
func withMaterial(t *testing.T, k *stateKey) {
	t.Helper()
	if k.state == "PendingImport" || k.origin(t) != types.OriginTypeExternal {
		return
	}
	giveMaterial(t, k)
}

func giveMaterial(t *testing.T, k *stateKey) {
	t.Helper()
	withImport(t, k)
	if _, err := k.ImportKeyMaterial(t.Context(), &kms.ImportKeyMaterialInput{
		KeyId: &k.id, ImportToken: k.token, EncryptedKeyMaterial: k.proof, ExpirationModel: lifetime,
	}); err != nil {
		t.Fatal(err)
	}
}

// withImportAgain imports key material and leaves what imports it again.
func withImportAgain(t *testing.T, k *stateKey) {
	t.Helper()
	withMaterial(t, k)
	withImport(t, k)
}

// withImport leaves an import token and material wrapped for it.
func withImport(t *testing.T, k *stateKey) {
	t.Helper()
	if k.origin(t) != types.OriginTypeExternal {
		k.token, k.proof = []byte("no token"), []byte("no material")
		return
	}
	out, err := k.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{KeyId: &k.id, WrappingAlgorithm: oaepSHA1, WrappingKeySpec: spec2048})
	if err != nil {
		t.Fatal(err)
	}
	k.token, k.proof = out.ImportToken, sealOAEP1(t, out.PublicKey, []byte("material-for-imported-keys-32-b."))
}

func (k *stateKey) origin(t *testing.T) types.OriginType {
	t.Helper()
	out, err := k.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &k.id})
	if err != nil {
		t.Fatal(err)
	}
	return out.KeyMetadata.Origin
}
