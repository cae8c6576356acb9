package api

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// TestEnvelope is the main job: a key, an alias, encryption with a context,
// and a data key that leaves wrapped and comes back to a recipient.
func TestEnvelope(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c, ctx := r.Client(""), t.Context()
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: &id}); err != nil {
		t.Fatal(err)
	}
	key := aws.String("alias/app")
	encryptionContext := map[string]string{"purpose": "test"}

	secret := []byte("attack at dawn")
	sealed, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: secret, EncryptionContext: encryptionContext})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: encryptionContext})
	if err != nil || !bytes.Equal(opened.Plaintext, secret) {
		t.Fatalf("Decrypt: %v", err)
	}
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); rig.Code(err) != "InvalidCiphertextException" {
		t.Errorf("without the context: %v", err)
	}

	if _, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256}); rig.Code(err) != "AccessDeniedException" {
		t.Errorf("a plaintext data key: %v", err)
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	to := &types.RecipientInfo{AttestationDocument: public, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"} // all that SoftHSM2 has
	made, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256, Recipient: to})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Plaintext) != 0 {
		t.Error("the data key came in the clear as well")
	}
	first, err := rsa.DecryptOAEP(sha1.New(), nil, private, made.CiphertextForRecipient, nil)
	if err != nil || len(first) != 32 {
		t.Fatalf("opening the data key: %v, %d bytes", err, len(first))
	}
	again, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, Recipient: to})
	if err != nil {
		t.Fatal(err)
	}
	second, err := rsa.DecryptOAEP(sha1.New(), nil, private, again.CiphertextForRecipient, nil)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("the data key changed on its way: %v", err)
	}
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob}); rig.Code(err) != "AccessDeniedException" {
		t.Errorf("Decrypt of a data key in the clear: %v", err)
	}
}
