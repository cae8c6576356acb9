package imports

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// materials are the kinds of key material, and what makes them.
var materials = []struct {
	spec  types.KeySpec
	usage types.KeyUsageType
	make  []string // openssl, PEM on standard output; nil: random bytes
	bytes string   // how many random bytes
	oaep  types.WrappingKeySpec
}{
	{types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt, nil, "32", types.WrappingKeySpecRsa2048},
	{types.KeySpecHmac224, types.KeyUsageTypeGenerateVerifyMac, nil, "28", types.WrappingKeySpecRsa2048},
	{types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac, nil, "32", types.WrappingKeySpecRsa2048},
	{types.KeySpecHmac384, types.KeyUsageTypeGenerateVerifyMac, nil, "48", types.WrappingKeySpecRsa2048},
	{types.KeySpecHmac512, types.KeyUsageTypeGenerateVerifyMac, nil, "64", types.WrappingKeySpecRsa3072},
	{types.KeySpecRsa2048, types.KeyUsageTypeSignVerify, []string{"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, "", ""},
	{types.KeySpecRsa3072, types.KeyUsageTypeEncryptDecrypt, []string{"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"}, "", ""},
	{types.KeySpecRsa4096, types.KeyUsageTypeSignVerify, []string{"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"}, "", ""},
	{types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify, []string{"ecparam", "-name", "prime256v1", "-genkey", "-noout"}, "", types.WrappingKeySpecRsa2048},
	{types.KeySpecEccNistP384, types.KeyUsageTypeKeyAgreement, []string{"ecparam", "-name", "secp384r1", "-genkey", "-noout"}, "", types.WrappingKeySpecRsa3072},
	{types.KeySpecEccNistP521, types.KeyUsageTypeSignVerify, []string{"ecparam", "-name", "secp521r1", "-genkey", "-noout"}, "", types.WrappingKeySpecRsa4096},
	{types.KeySpecEccSecgP256k1, types.KeyUsageTypeSignVerify, []string{"ecparam", "-name", "secp256k1", "-genkey", "-noout"}, "", types.WrappingKeySpecRsa2048},
	{types.KeySpecEccNistEdwards25519, types.KeyUsageTypeSignVerify, []string{"genpkey", "-algorithm", "ed25519"}, "", types.WrappingKeySpecRsa2048},
}

// TestImport brings every kind of material in by every wrapping algorithm that
// takes it, and has openssl or Go check what the key does then.
func TestImport(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	t.Run("kinds", func(t *testing.T) { importKinds(t, c) }) // ends with its subtests
	if !strings.Contains(r.AuditTrail(t), `"materialThroughPlugin":true`) {
		t.Error("no record says that material passed through the plugin, as it does with SoftHSM2")
	}
	// pkcs11-tool looks only now: SoftHSM2 may not find the token while another
	// process changes it.
	if got := rig.Objects(t, r, "import-"); len(got) != 0 {
		t.Errorf("wrapping pairs are left: %v", got)
	}
}

func importKinds(t *testing.T, c *kms.Client) {
	for _, m := range materials {
		t.Run(string(m.spec), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if m.make == nil {
				rig.OpenSSL(t, dir, "rand", "-out", "material.bin", m.bytes)
			} else {
				rig.WriteFile(t, dir, "key.pem", rig.OpenSSL(t, dir, m.make...))
				rig.OpenSSL(t, dir, "pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-outform", "der", "-out", "material.bin")
			}
			for _, algorithm := range []types.AlgorithmSpec{
				types.AlgorithmSpecRsaAesKeyWrapSha1, types.AlgorithmSpecRsaAesKeyWrapSha256,
				types.AlgorithmSpecRsaesOaepSha1, types.AlgorithmSpecRsaesOaepSha256,
			} {
				id := rig.ExternalKey(t, c, m.spec, m.usage)
				i := &rig.Importing{Client: c, ID: id, Dir: dir, Algorithm: algorithm, Wrapping: types.WrappingKeySpecRsa2048}
				if strings.HasPrefix(string(algorithm), "RSAES_OAEP") {
					if m.oaep == "" { // the material is too long
						_, err := c.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{
							KeyId: &id, WrappingAlgorithm: algorithm, WrappingKeySpec: types.WrappingKeySpecRsa4096,
						})
						if rig.Code(err) != "UnsupportedOperationException" {
							t.Errorf("%s: %v", algorithm, err)
						}
						continue
					}
					i.Wrapping = m.oaep
				}
				if out := i.Run(t); !strings.HasSuffix(*out.KeyId, ":key/"+id) {
					t.Errorf("ImportKeyMaterial answers KeyId %s", *out.KeyId)
				}
				if got := rig.State(t, c, id); got != "Enabled" {
					t.Errorf("%s: the key is %s", algorithm, got)
				}
				checkImported(t, c, id, m.spec, m.usage, dir)
			}
		})
	}
}

// checkImported has the key of material.bin checked by what did not import it.
func checkImported(t *testing.T, c *kms.Client, id string, spec types.KeySpec, usage types.KeyUsageType, dir string) {
	t.Helper()
	ctx, message := t.Context(), []byte("the quick brown fox")
	switch usage {
	case types.KeyUsageTypeEncryptDecrypt:
		if spec != types.KeySpecSymmetricDefault {
			rig.WriteFile(t, dir, "message", message)
			rig.OpenSSL(t, dir, "pkeyutl", "-encrypt", "-inkey", "key.pem", "-in", "message", "-out", "sealed",
				"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256")
			out, err := c.Decrypt(ctx, &kms.DecryptInput{
				KeyId: &id, CiphertextBlob: rig.ReadFile(t, dir, "sealed"), EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256,
			})
			if err != nil || !bytes.Equal(out.Plaintext, message) {
				t.Errorf("%s: Decrypt: %v", spec, err)
			}
			return
		}
		rig.Seal(t, c, id, string(message)) // which opens it again
	case types.KeyUsageTypeGenerateVerifyMac:
		hashes := map[types.KeySpec]crypto.Hash{
			types.KeySpecHmac224: crypto.SHA224, types.KeySpecHmac256: crypto.SHA256, types.KeySpecHmac384: crypto.SHA384, types.KeySpecHmac512: crypto.SHA512,
		}
		mac := hmac.New(hashes[spec].New, rig.ReadFile(t, dir, "material.bin"))
		mac.Write(message)
		algorithm := types.MacAlgorithmSpec("HMAC_SHA_" + strings.TrimPrefix(string(spec), "HMAC_"))
		out, err := c.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: &id, Message: message, MacAlgorithm: algorithm})
		if err != nil || !hmac.Equal(out.Mac, mac.Sum(nil)) {
			t.Errorf("%s: GenerateMac: %v", spec, err)
		}
	case types.KeyUsageTypeKeyAgreement:
		rig.WriteFile(t, dir, "peer.pem", rig.OpenSSL(t, dir, "ecparam", "-name", "secp384r1", "-genkey", "-noout"))
		peer := rig.OpenSSL(t, dir, "pkey", "-in", "peer.pem", "-pubout", "-outform", "der")
		rig.OpenSSL(t, dir, "pkey", "-in", "key.pem", "-pubout", "-out", "public.pem")
		want := rig.OpenSSL(t, dir, "pkeyutl", "-derive", "-inkey", "peer.pem", "-peerkey", "public.pem")
		out, err := c.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: &id, PublicKey: peer, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh})
		if err != nil || !bytes.Equal(out.SharedSecret, want) {
			t.Errorf("%s: DeriveSharedSecret: %v", spec, err)
		}
	default:
		checkImportedSignature(t, c, id, spec, dir)
	}
}

// checkImportedSignature compares the public key and verifies a signature with
// the key that openssl made.
func checkImportedSignature(t *testing.T, c *kms.Client, id string, spec types.KeySpec, dir string) {
	t.Helper()
	ctx, message := t.Context(), []byte("the quick brown fox")
	public := rig.OpenSSL(t, dir, "pkey", "-in", "key.pem", "-pubout", "-outform", "der")
	got, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil || !bytes.Equal(got.PublicKey, public) {
		t.Fatalf("%s: GetPublicKey: %v", spec, err)
	}
	algorithm := got.SigningAlgorithms[0]
	out, err := c.Sign(ctx, &kms.SignInput{KeyId: &id, Message: message, SigningAlgorithm: algorithm})
	if err != nil {
		t.Fatalf("%s: Sign: %v", spec, err)
	}
	rig.WriteFile(t, dir, "message", message)
	rig.WriteFile(t, dir, "signature", out.Signature)
	rig.WriteFile(t, dir, "public.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	if spec == types.KeySpecEccNistEdwards25519 {
		rig.OpenSSL(t, dir, "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in", "message", "-sigfile", "signature")
		return
	}
	hash := "-sha" + string(algorithm[len(algorithm)-3:])
	rig.OpenSSL(t, dir, "dgst", hash, "-verify", "public.pem", "-signature", "signature", "message")
}

// TestImportAgain: deletion and the same material give back the same
// ciphertexts and MACs; other material is refused.
func TestImportAgain(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c, ctx := r.Client(""), t.Context()
	m := rig.NewImport(t, c)
	first := m.Run(t)
	secret := rig.Seal(t, c, m.ID, "secret")
	if secret.Material != *first.KeyMaterialId || rig.Current(t, c, m.ID) != secret.Material {
		t.Errorf("material %s of the import, %s of the ciphertext", *first.KeyMaterialId, secret.Material)
	}
	other := t.TempDir()
	rig.OpenSSL(t, other, "rand", "-out", "material.bin", "32")
	wrong := *m
	wrong.Dir = other
	for _, when := range []string{"while there is material", "after it was deleted"} {
		if _, err := c.ImportKeyMaterial(ctx, wrong.Parameters(t)); rig.Code(err) != "IncorrectKeyMaterialException" {
			t.Errorf("other material %s: %v", when, err)
		}
		if when == "after it was deleted" {
			break
		}
		secret.Open(t, c)
		out, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &m.ID})
		if err != nil || *out.KeyMaterialId != secret.Material {
			t.Fatalf("DeleteImportedKeyMaterial: %v", err)
		}
	}
	if got := rig.State(t, c, m.ID); got != "PendingImport" {
		t.Errorf("the key is %s without its material", got)
	}
	if got := rig.Objects(t, r, "cmkd:"+m.ID); len(got) != 0 {
		t.Errorf("the token has %v after its material was deleted", got)
	}
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.Blob}); rig.Code(err) != "KMSInvalidStateException" {
		t.Errorf("Decrypt without material: %v", err)
	}
	// Once more: deleting nothing is not an error.
	if _, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &m.ID}); err != nil {
		t.Errorf("deleting it again: %v", err)
	}
	again := m.Run(t)
	if *again.KeyMaterialId != secret.Material || secret.Open(t, c) != secret.Material {
		t.Errorf("the material is %s when it comes back", *again.KeyMaterialId)
	}
	// The same material over itself is allowed, with another expiry.
	m.Run(t)
	secret.Open(t, c)
	if got := rig.Objects(t, r, "cmkd:"+m.ID); len(got) != 1 {
		t.Errorf("the token has %v", got)
	}
	// Another key's ciphertexts are its own, even of the same material.
	twin := *m
	twin.ID = rig.ExternalKey(t, c, types.KeySpecSymmetricDefault, "")
	twin.Run(t)
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{KeyId: &twin.ID, CiphertextBlob: secret.Blob}); rig.Code(err) != "IncorrectKeyException" {
		t.Errorf("Decrypt under a twin: %v", err)
	}

	mac := &rig.Importing{Client: c, Dir: t.TempDir(), Algorithm: types.AlgorithmSpecRsaAesKeyWrapSha256, Wrapping: types.WrappingKeySpecRsa2048}
	mac.ID = rig.ExternalKey(t, c, types.KeySpecHmac512, types.KeyUsageTypeGenerateVerifyMac)
	rig.OpenSSL(t, mac.Dir, "rand", "-out", "material.bin", "64")
	mac.Run(t)
	if _, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &mac.ID}); err != nil {
		t.Fatal(err)
	}
	mac.Run(t)
	h := hmac.New(sha512.New, rig.ReadFile(t, mac.Dir, "material.bin"))
	h.Write([]byte("message"))
	if _, err := c.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: &mac.ID, Message: []byte("message"), Mac: h.Sum(nil), MacAlgorithm: types.MacAlgorithmSpecHmacSha512}); err != nil {
		t.Errorf("VerifyMac: %v", err)
	}
}

// TestImportToken: a token serves its own key, its own wrapping key, for 24
// hours, once.
func TestImportToken(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	m, other := rig.NewImport(t, c), rig.NewImport(t, c)
	try := func(what string, in *kms.ImportKeyMaterialInput, want string) {
		t.Helper()
		if _, err := c.ImportKeyMaterial(ctx, in); rig.Code(err) != want {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	mine, hers := m.Parameters(t), other.Parameters(t)
	crossed := *mine
	crossed.ImportToken = hers.ImportToken
	try("the token of another key", &crossed, "InvalidImportTokenException")
	forged := *mine
	forged.ImportToken = slices.Clone(mine.ImportToken)
	forged.ImportToken[0] ^= 1
	try("a token that was altered", &forged, "InvalidImportTokenException")
	second := m.Parameters(t)
	mixed := *second
	mixed.EncryptedKeyMaterial = mine.EncryptedKeyMaterial
	try("material for another wrapping key", &mixed, "InvalidCiphertextException")
	damaged := *mine
	damaged.EncryptedKeyMaterial = slices.Clone(mine.EncryptedKeyMaterial)
	damaged.EncryptedKeyMaterial[10] ^= 1
	try("damaged material", &damaged, "InvalidCiphertextException")
	short := *m
	short.Dir = t.TempDir()
	rig.OpenSSL(t, short.Dir, "rand", "-out", "material.bin", "31")
	if _, err := c.ImportKeyMaterial(ctx, short.Parameters(t)); rig.Code(err) == "" || strings.Contains(rig.Code(err), "Internal") {
		t.Errorf("material of 31 bytes: %v", err)
	}
	try("the right token", mine, "")
	try("the token once more", mine, "InvalidImportTokenException")

	cl.Jump(24*time.Hour - time.Second)
	rig.RunJobs(t, r)
	try("a second before 24 hours", hers, "")
	late := m.Parameters(t)
	cl.Jump(24 * time.Hour)
	try("after 24 hours", late, "ExpiredImportTokenException")
	rig.RunJobs(t, r)
	for _, id := range []string{m.ID, other.ID} {
		if got := rig.Objects(t, r, "import-"+id); len(got) != 0 {
			t.Errorf("wrapping pairs that expired are left: %v", got)
		}
	}
	try("an expired token when it is forgotten", late, "InvalidImportTokenException")
}
