package api

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// testDryRun: with DryRun a call that would succeed says so, any other gets
// its own error, and nothing changes.
func testDryRun(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{})
	signing, mac, agreeing := a.signing(t), a.authenticating(t), a.key(t, types.KeySpecEccNistP256, usageAgree)
	k := &stateKey{api: a, id: *id, arn: keyARN(id)}
	withBlob(t, k)
	withGrant(t, k)
	signer := &stateKey{api: a, id: *signing}
	withSignature(t, signer)
	authenticator := &stateKey{api: a, id: *mac}
	withMAC(t, authenticator)
	peer, err := a.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: agreeing})
	if err != nil {
		t.Fatal(err)
	}
	yes, ecdh := aws.Bool(true), types.KeyAgreementAlgorithmSpecEcdh
	to := toTests().info()
	none := aws.String(unknownID)
	absent := notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID))
	noMessage := func(code string) want { return want{code, ""} }
	grants := func(ctx context.Context) (int, error) {
		out, err := a.ListGrants(ctx, &kms.ListGrantsInput{KeyId: id})
		if err != nil {
			return 0, err
		}
		return len(out.Grants), nil
	}
	createGrant := func(id *string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: id, GranteePrincipal: aws.String(someone), Operations: []types.GrantOperation{"Decrypt"}, DryRun: yes}))
		}
	}
	runCalls(t, []call{
		{"CreateGrant", createGrant(id), dryRun()},
		{"CreateGrant of no key", createGrant(none), absent},
		{"Decrypt", func(ctx context.Context) error {
			return rig.ErrOf(a.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: k.blob, DryRun: yes}))
		}, dryRun()},
		{"Decrypt nonsense", func(ctx context.Context) error {
			return rig.ErrOf(a.Decrypt(ctx, &kms.DecryptInput{KeyId: id, CiphertextBlob: aMessage, DryRun: yes}))
		}, invalidCiphertext},
		{"Decrypt whatever", func(ctx context.Context) error {
			return rig.ErrOf(a.Decrypt(ctx, &kms.DecryptInput{KeyId: id, CiphertextBlob: aMessage, DryRun: yes, DryRunModifiers: ignoreCiphertext}))
		}, dryRun()},
		{"Decrypt nothing", func(ctx context.Context) error {
			return rig.ErrOf(a.Decrypt(ctx, &kms.DecryptInput{KeyId: id, DryRun: yes, DryRunModifiers: ignoreCiphertext}))
		}, dryRun()},
		{"Decrypt whatever by a signing key", func(ctx context.Context) error {
			return rig.ErrOf(a.Decrypt(ctx, &kms.DecryptInput{KeyId: signing, CiphertextBlob: aMessage, DryRun: yes, DryRunModifiers: ignoreCiphertext}))
		}, wantCode("InvalidKeyUsageException")},
		{"modifiers without DryRun", func(ctx context.Context) error {
			return rig.ErrOf(a.Decrypt(ctx, &kms.DecryptInput{KeyId: id, CiphertextBlob: k.blob, DryRunModifiers: ignoreCiphertext}))
		}, wantCode("ValidationException")},
		{"DeriveSharedSecret", func(ctx context.Context) error {
			return rig.ErrOf(a.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: agreeing, KeyAgreementAlgorithm: ecdh, PublicKey: peer.PublicKey, DryRun: yes}))
		}, dryRun()},
		{"DeriveSharedSecret with nonsense", func(ctx context.Context) error {
			return rig.ErrOf(a.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: agreeing, KeyAgreementAlgorithm: ecdh, PublicKey: aMessage, DryRun: yes}))
		}, noMessage("ValidationException")},
		{"Encrypt", func(ctx context.Context) error {
			return rig.ErrOf(a.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: aMessage, DryRun: yes}))
		}, dryRun()},
		{"Encrypt by a signing key", func(ctx context.Context) error {
			return rig.ErrOf(a.Encrypt(ctx, &kms.EncryptInput{KeyId: signing, Plaintext: aMessage, DryRun: yes}))
		}, wantCode("InvalidKeyUsageException")},
		{"GenerateDataKey", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: id, KeySpec: types.DataKeySpecAes256, Recipient: to, DryRun: yes}))
		}, dryRun()},
		{"GenerateDataKey in the clear", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: id, KeySpec: types.DataKeySpecAes256, DryRun: yes}))
		}, wantCode("AccessDeniedException")},
		{"GenerateDataKeyWithoutPlaintext", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: id, KeySpec: types.DataKeySpecAes256, DryRun: yes}))
		}, dryRun()},
		{"GenerateDataKeyWithoutPlaintext of no size", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: id, DryRun: yes}))
		}, wantCode("ValidationException")},
		{"GenerateDataKeyPair", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: id, KeyPairSpec: p256Pair, Recipient: to, DryRun: yes}))
		}, dryRun()},
		{"GenerateDataKeyPairWithoutPlaintext", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: id, KeyPairSpec: p256Pair, DryRun: yes}))
		}, dryRun()},
		{"GenerateMac", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: mac, Message: aMessage, MacAlgorithm: hmac256, DryRun: yes}))
		}, dryRun()},
		{"ReEncrypt", func(ctx context.Context) error {
			return rig.ErrOf(a.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: k.blob, DestinationKeyId: a.symmetric(t), DryRun: yes}))
		}, dryRun()},
		{"ReEncrypt nonsense", func(ctx context.Context) error {
			return rig.ErrOf(a.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: aMessage, DestinationKeyId: id, DryRun: yes}))
		}, invalidCiphertext},
		{"ReEncrypt whatever", func(ctx context.Context) error {
			return rig.ErrOf(a.ReEncrypt(ctx, &kms.ReEncryptInput{SourceKeyId: id, CiphertextBlob: aMessage, DestinationKeyId: id, DryRun: yes, DryRunModifiers: ignoreCiphertext}))
		}, dryRun()},
		{"ReEncrypt to no key", func(ctx context.Context) error {
			return rig.ErrOf(a.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: k.blob, DestinationKeyId: none, DryRun: yes}))
		}, absent},
		{"Sign", func(ctx context.Context) error {
			return rig.ErrOf(a.Sign(ctx, &kms.SignInput{KeyId: signing, Message: aMessage, SigningAlgorithm: ecdsa256, DryRun: yes}))
		}, dryRun()},
		{"Sign a short digest", func(ctx context.Context) error {
			return rig.ErrOf(a.Sign(ctx, &kms.SignInput{KeyId: signing, Message: aMessage, MessageType: types.MessageTypeDigest, SigningAlgorithm: ecdsa256, DryRun: yes}))
		}, validation("Digest is invalid length for algorithm ECDSA_SHA_256.")},
		{"Verify", func(ctx context.Context) error {
			return rig.ErrOf(a.Verify(ctx, &kms.VerifyInput{KeyId: signing, Message: aMessage, Signature: signer.proof, SigningAlgorithm: ecdsa256, DryRun: yes}))
		}, dryRun()},
		{"Verify nonsense", func(ctx context.Context) error {
			return rig.ErrOf(a.Verify(ctx, &kms.VerifyInput{KeyId: signing, Message: aMessage, Signature: aMessage, SigningAlgorithm: ecdsa256, DryRun: yes}))
		}, noMessage("KMSInvalidSignatureException")},
		{"VerifyMac", func(ctx context.Context) error {
			return rig.ErrOf(a.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: mac, Message: aMessage, Mac: authenticator.proof, MacAlgorithm: hmac256, DryRun: yes}))
		}, dryRun()},
		{"VerifyMac of nonsense", func(ctx context.Context) error {
			return rig.ErrOf(a.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: mac, Message: aMessage, Mac: aMessage, MacAlgorithm: hmac256, DryRun: yes}))
		}, noMessage("KMSInvalidMacException")},
		{"RevokeGrant", func(ctx context.Context) error {
			return rig.ErrOf(a.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: id, GrantId: &k.grantID, DryRun: yes}))
		}, dryRun()},
		{"RevokeGrant of none", func(ctx context.Context) error {
			return rig.ErrOf(a.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: id, GrantId: aws.String("none"), DryRun: yes}))
		}, notFound("Grant ID none not found")},
		{"RetireGrant", func(ctx context.Context) error {
			return rig.ErrOf(a.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: &k.grantToken, DryRun: yes}))
		}, dryRun()},
		{"RetireGrant with no token", func(ctx context.Context) error {
			return rig.ErrOf(a.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: aws.String("none"), DryRun: yes}))
		}, wantCode("InvalidGrantTokenException")},
	})
	if n, err := grants(t.Context()); n != 1 || err != nil {
		t.Errorf("the key has %d grants, %v, want the one it had", n, err)
	}
}

var ignoreCiphertext = []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext}
