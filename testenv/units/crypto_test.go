package units_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/nitro"
	"cmkd/testenv/rig"
)

func signRSA(t *testing.T, c *kms.Client) {
	id, digest := rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify}), sha256.Sum256([]byte("text"))
	signed := must(c.Sign(t.Context(), &kms.SignInput{
		KeyId: &id, Message: digest[:], MessageType: types.MessageTypeDigest, SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256,
	}))(t)
	if err := rsa.VerifyPKCS1v15(public(t, c, id).(*rsa.PublicKey), crypto.SHA256, digest[:], signed.Signature); err != nil {
		t.Error(err)
	}
	id = rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public(t, c, id).(*rsa.PublicKey), []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	opened := must(c.Decrypt(t.Context(), &kms.DecryptInput{
		KeyId: &id, CiphertextBlob: sealed, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256,
	}))(t)
	if string(opened.Plaintext) != "secret" {
		t.Error("Decrypt gives something else")
	}
}

func elliptic(t *testing.T, c *kms.Client) {
	id, digest := rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify}), sha256.Sum256([]byte("text"))
	signed := must(c.Sign(t.Context(), &kms.SignInput{
		KeyId: &id, Message: digest[:], MessageType: types.MessageTypeDigest, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256,
	}))(t)
	if !ecdsa.VerifyASN1(public(t, c, id).(*ecdsa.PublicKey), digest[:], signed.Signature) {
		t.Error("the signature is not valid")
	}
	id = rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeKeyAgreement})
	ours, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ours.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	derived := must(c.DeriveSharedSecret(t.Context(), &kms.DeriveSharedSecretInput{
		KeyId: &id, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: der,
	}))(t)
	theirs, err := public(t, c, id).(*ecdsa.PublicKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := ours.ECDH(theirs); err != nil || !bytes.Equal(secret, derived.SharedSecret) {
		t.Errorf("the secrets differ, %v", err)
	}
}

func macs(t *testing.T, c *kms.Client) {
	id := rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	made := must(c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &id, Message: []byte("text"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256}))(t)
	must(c.VerifyMac(t.Context(), &kms.VerifyMacInput{
		KeyId: &id, Message: []byte("text"), Mac: made.Mac, MacAlgorithm: types.MacAlgorithmSpecHmacSha256,
	}))(t)
}

// importing imports, deletes and imports again.
func importing(t *testing.T, c *kms.Client) {
	id, material := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeExternal}), make([]byte, 32)
	_, _ = rand.Read(material)
	var sealed []byte
	for range 2 {
		parameters := must(c.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{
			KeyId: &id, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
		}))(t)
		wrapping, err := x509.ParsePKIXPublicKey(parameters.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, wrapping.(*rsa.PublicKey), material, nil)
		if err != nil {
			t.Fatal(err)
		}
		must(c.ImportKeyMaterial(t.Context(), &kms.ImportKeyMaterialInput{
			KeyId: &id, ImportToken: parameters.ImportToken, EncryptedKeyMaterial: wrapped, ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		}))(t)
		if sealed == nil {
			sealed = must(c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("secret")}))(t).CiphertextBlob
		} else if opened := must(c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed}))(t); string(opened.Plaintext) != "secret" {
			t.Error("Decrypt gives something else")
		}
		must(c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &id}))(t)
	}
}

// recipients get data keys with an attestation document.
func recipients(t *testing.T, c *kms.Client, authority *nitro.Authority) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	write(t, file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600)
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	made := must(c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{
		KeyId: &id, KeySpec: types.DataKeySpecAes256,
		Recipient: &types.RecipientInfo{
			AttestationDocument: authority.Document(t, der), KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
		},
	}))(t)
	cmd := exec.CommandContext(t.Context(), "openssl", "cms", "-decrypt", "-inform", "DER", "-inkey", file)
	cmd.Stdin = bytes.NewReader(made.CiphertextForRecipient)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) != 32 {
		t.Errorf("the recipient opens %d bytes, %v", len(out), err)
	}
}

// public is GetPublicKey's.
func public(t *testing.T, c *kms.Client, id string) any {
	t.Helper()
	out := must(c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &id}))(t)
	key, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
