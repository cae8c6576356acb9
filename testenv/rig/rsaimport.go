package rig

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
)

// ImportParameters are those of an import wrapped by [ImportMaterial].
func ImportParameters(t *testing.T, c *kms.Client, id string) *kms.GetParametersForImportOutput {
	t.Helper()
	p, err := c.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{
		KeyId: &id, WrappingAlgorithm: types.AlgorithmSpecRsaAesKeyWrapSha1, WrappingKeySpec: types.WrappingKeySpecRsa2048,
	})
	if err != nil {
		t.Fatalf("GetParametersForImport: %v", err)
	}
	return p
}

// ImportMaterial wraps by RSA_AES_KEY_WRAP_SHA_1 (PKCS#11 2.40 Mechanisms,
// section 2.1.21): RSA-OAEP over an AES key, and RFC 5649 under that.
func ImportMaterial(t *testing.T, c *kms.Client, id string, material []byte) {
	t.Helper()
	p := ImportParameters(t, c, id)
	public, err := x509.ParsePKIXPublicKey(p.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	kek := make([]byte, 32)
	_, _ = rand.Read(kek)
	sealed, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, public.(*rsa.PublicKey), kek, nil)
	if err != nil {
		t.Fatal(err)
	}
	kwp, err := subtle.NewKWP(kek)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := kwp.Wrap(material)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ImportKeyMaterial(t.Context(), &kms.ImportKeyMaterialInput{
		KeyId: &id, ImportToken: p.ImportToken, EncryptedKeyMaterial: append(sealed, wrapped...),
		ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
	}); err != nil {
		t.Fatalf("ImportKeyMaterial: %v", err)
	}
}
