package rig

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// OpenSSL runs openssl in a folder.
func OpenSSL(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// wrap encrypts material.bin in dir for the wrapping key, with the commands of
// https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-encrypt-key-material.html
func wrap(t *testing.T, dir string, public []byte, algorithm types.AlgorithmSpec) []byte {
	t.Helper()
	WriteFile(t, dir, "WrappingPublicKey.bin", public)
	hash := "sha256"
	if strings.HasSuffix(string(algorithm), "SHA_1") {
		hash = "sha1"
	}
	oaep := func(in, out string) {
		OpenSSL(t, dir, "pkeyutl", "-encrypt", "-in", in, "-out", out, "-inkey", "WrappingPublicKey.bin", "-keyform", "DER", "-pubin",
			"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+hash, "-pkeyopt", "rsa_mgf1_md:"+hash)
	}
	if strings.HasPrefix(string(algorithm), "RSAES_OAEP") {
		oaep("material.bin", "encrypted.bin")
		return ReadFile(t, dir, "encrypted.bin")
	}
	OpenSSL(t, dir, "rand", "-out", "aes-key.bin", "32")
	OpenSSL(t, dir, "enc", "-id-aes256-wrap-pad", "-K", hex.EncodeToString(ReadFile(t, dir, "aes-key.bin")), "-iv", "A65959A6",
		"-in", "material.bin", "-out", "material-wrapped.bin")
	oaep("aes-key.bin", "aes-key-wrapped.bin")
	return append(ReadFile(t, dir, "aes-key-wrapped.bin"), ReadFile(t, dir, "material-wrapped.bin")...)
}

// WriteFile writes a file of a folder.
func WriteFile(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ReadFile reads a file of a folder.
func ReadFile(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Importing is what one import works with.
type Importing struct {
	Client    *kms.Client
	ID        string
	Dir       string // material.bin is in it
	Algorithm types.AlgorithmSpec
	Wrapping  types.WrappingKeySpec
}

// Parameters asks for the parameters and wraps material.bin with them.
func (m *Importing) Parameters(t *testing.T) *kms.ImportKeyMaterialInput {
	t.Helper()
	p, err := m.Client.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{
		KeyId: &m.ID, WrappingAlgorithm: m.Algorithm, WrappingKeySpec: m.Wrapping,
	})
	if err != nil {
		t.Fatalf("GetParametersForImport: %v", err)
	}
	return &kms.ImportKeyMaterialInput{
		KeyId: &m.ID, ImportToken: p.ImportToken, EncryptedKeyMaterial: wrap(t, m.Dir, p.PublicKey, m.Algorithm),
		ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
	}
}

// Run imports the material.
func (m *Importing) Run(t *testing.T) *kms.ImportKeyMaterialOutput {
	t.Helper()
	out, err := m.Client.ImportKeyMaterial(t.Context(), m.Parameters(t))
	if err != nil {
		t.Fatalf("ImportKeyMaterial: %v", err)
	}
	return out
}

// ExternalKey makes a key without material.
func ExternalKey(t *testing.T, c *kms.Client, spec types.KeySpec, usage types.KeyUsageType) string {
	t.Helper()
	id := NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeExternal, KeySpec: spec, KeyUsage: usage})
	if got := State(t, c, id); got != "PendingImport" {
		t.Errorf("a key without material is %s", got)
	}
	return id
}

// NewImport makes a key without material and new material for it.
func NewImport(t *testing.T, c *kms.Client) *Importing {
	t.Helper()
	dir := t.TempDir()
	OpenSSL(t, dir, "rand", "-out", "material.bin", "32")
	return &Importing{
		Client: c, ID: ExternalKey(t, c, types.KeySpecSymmetricDefault, ""), Dir: dir,
		Algorithm: types.AlgorithmSpecRsaesOaepSha256, Wrapping: types.WrappingKeySpecRsa2048,
	}
}

// Fresh is an import of new random material into the same key.
func (m *Importing) Fresh(t *testing.T) *Importing {
	t.Helper()
	other := *m
	other.Dir = t.TempDir()
	OpenSSL(t, other.Dir, "rand", "-out", "material.bin", "32")
	return &other
}

// Load imports the material, which is new to the key or not, and returns its ID or
// the code of the error.
func (m *Importing) Load(t *testing.T, kind types.ImportType) string {
	t.Helper()
	in := m.Parameters(t)
	in.ImportType = kind
	out, err := m.Client.ImportKeyMaterial(t.Context(), in)
	if err != nil {
		return Code(err)
	}
	return *out.KeyMaterialId
}

// Take deletes material.
func (m *Importing) Take(t *testing.T, material string) {
	t.Helper()
	if _, err := m.Client.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &m.ID, KeyMaterialId: &material}); err != nil {
		t.Fatalf("DeleteImportedKeyMaterial: %v", err)
	}
}

// Rotate makes the newest material the current one.
func (m *Importing) Rotate(t *testing.T) {
	t.Helper()
	if _, err := m.Client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &m.ID}); err != nil {
		t.Fatalf("RotateKeyOnDemand: %v", err)
	}
}

// Rotations are the entries of ListKeyRotations, with all materials.
func (m *Importing) Rotations(t *testing.T) []types.RotationsListEntry {
	t.Helper()
	out, err := m.Client.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &m.ID, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
	if err != nil {
		t.Fatalf("ListKeyRotations: %v", err)
	}
	return out.Rotations
}
