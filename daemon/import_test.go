package daemon_test

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// openssl runs openssl in a folder.
func openssl(t *testing.T, dir string, args ...string) []byte {
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
	write(t, dir, "WrappingPublicKey.bin", public)
	hash := "sha256"
	if strings.HasSuffix(string(algorithm), "SHA_1") {
		hash = "sha1"
	}
	oaep := func(in, out string) {
		openssl(t, dir, "pkeyutl", "-encrypt", "-in", in, "-out", out, "-inkey", "WrappingPublicKey.bin", "-keyform", "DER", "-pubin",
			"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+hash, "-pkeyopt", "rsa_mgf1_md:"+hash)
	}
	if strings.HasPrefix(string(algorithm), "RSAES_OAEP") {
		oaep("material.bin", "encrypted.bin")
		return read(t, dir, "encrypted.bin")
	}
	openssl(t, dir, "rand", "-out", "aes-key.bin", "32")
	openssl(t, dir, "enc", "-id-aes256-wrap-pad", "-K", hex.EncodeToString(read(t, dir, "aes-key.bin")), "-iv", "A65959A6",
		"-in", "material.bin", "-out", "material-wrapped.bin")
	oaep("aes-key.bin", "aes-key-wrapped.bin")
	return append(read(t, dir, "aes-key-wrapped.bin"), read(t, dir, "material-wrapped.bin")...)
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// importing is what one import works with.
type importing struct {
	c         *kms.Client
	id        string
	dir       string // material.bin is in it
	algorithm types.AlgorithmSpec
	wrapping  types.WrappingKeySpec
}

// parameters asks for the parameters and wraps material.bin with them.
func (m *importing) parameters(t *testing.T) *kms.ImportKeyMaterialInput {
	t.Helper()
	p, err := m.c.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{
		KeyId: &m.id, WrappingAlgorithm: m.algorithm, WrappingKeySpec: m.wrapping,
	})
	if err != nil {
		t.Fatalf("GetParametersForImport: %v", err)
	}
	return &kms.ImportKeyMaterialInput{
		KeyId: &m.id, ImportToken: p.ImportToken, EncryptedKeyMaterial: wrap(t, m.dir, p.PublicKey, m.algorithm),
		ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
	}
}

func (m *importing) run(t *testing.T) *kms.ImportKeyMaterialOutput {
	t.Helper()
	out, err := m.c.ImportKeyMaterial(t.Context(), m.parameters(t))
	if err != nil {
		t.Fatalf("ImportKeyMaterial: %v", err)
	}
	return out
}

// external makes a key without material.
func external(t *testing.T, c *kms.Client, spec types.KeySpec, usage types.KeyUsageType) string {
	t.Helper()
	id := newKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeExternal, KeySpec: spec, KeyUsage: usage})
	if got := state(t, c, id); got != "PendingImport" {
		t.Errorf("a key without material is %s", got)
	}
	return id
}

// symmetric makes a key without material and new material for it.
func symmetric(t *testing.T, c *kms.Client) *importing {
	t.Helper()
	dir := t.TempDir()
	openssl(t, dir, "rand", "-out", "material.bin", "32")
	return &importing{
		c: c, id: external(t, c, types.KeySpecSymmetricDefault, ""), dir: dir,
		algorithm: types.AlgorithmSpecRsaesOaepSha256, wrapping: types.WrappingKeySpecRsa2048,
	}
}

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
	if got := objects(t, r, "import-"); len(got) != 0 {
		t.Errorf("wrapping pairs are left: %v", got)
	}
}

func importKinds(t *testing.T, c *kms.Client) {
	for _, m := range materials {
		t.Run(string(m.spec), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if m.make == nil {
				openssl(t, dir, "rand", "-out", "material.bin", m.bytes)
			} else {
				write(t, dir, "key.pem", openssl(t, dir, m.make...))
				openssl(t, dir, "pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-outform", "der", "-out", "material.bin")
			}
			for _, algorithm := range []types.AlgorithmSpec{
				types.AlgorithmSpecRsaAesKeyWrapSha1, types.AlgorithmSpecRsaAesKeyWrapSha256,
				types.AlgorithmSpecRsaesOaepSha1, types.AlgorithmSpecRsaesOaepSha256,
			} {
				id := external(t, c, m.spec, m.usage)
				i := &importing{c: c, id: id, dir: dir, algorithm: algorithm, wrapping: types.WrappingKeySpecRsa2048}
				if strings.HasPrefix(string(algorithm), "RSAES_OAEP") {
					if m.oaep == "" { // the material is too long
						_, err := c.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{
							KeyId: &id, WrappingAlgorithm: algorithm, WrappingKeySpec: types.WrappingKeySpecRsa4096,
						})
						if code(err) != "UnsupportedOperationException" {
							t.Errorf("%s: %v", algorithm, err)
						}
						continue
					}
					i.wrapping = m.oaep
				}
				if out := i.run(t); !strings.HasSuffix(*out.KeyId, ":key/"+id) {
					t.Errorf("ImportKeyMaterial answers KeyId %s", *out.KeyId)
				}
				if got := state(t, c, id); got != "Enabled" {
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
			write(t, dir, "message", message)
			openssl(t, dir, "pkeyutl", "-encrypt", "-inkey", "key.pem", "-in", "message", "-out", "sealed",
				"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256")
			out, err := c.Decrypt(ctx, &kms.DecryptInput{
				KeyId: &id, CiphertextBlob: read(t, dir, "sealed"), EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256,
			})
			if err != nil || !bytes.Equal(out.Plaintext, message) {
				t.Errorf("%s: Decrypt: %v", spec, err)
			}
			return
		}
		seal(t, c, id, string(message)) // which opens it again
	case types.KeyUsageTypeGenerateVerifyMac:
		hashes := map[types.KeySpec]crypto.Hash{
			types.KeySpecHmac224: crypto.SHA224, types.KeySpecHmac256: crypto.SHA256, types.KeySpecHmac384: crypto.SHA384, types.KeySpecHmac512: crypto.SHA512,
		}
		mac := hmac.New(hashes[spec].New, read(t, dir, "material.bin"))
		mac.Write(message)
		algorithm := types.MacAlgorithmSpec("HMAC_SHA_" + strings.TrimPrefix(string(spec), "HMAC_"))
		out, err := c.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: &id, Message: message, MacAlgorithm: algorithm})
		if err != nil || !hmac.Equal(out.Mac, mac.Sum(nil)) {
			t.Errorf("%s: GenerateMac: %v", spec, err)
		}
	case types.KeyUsageTypeKeyAgreement:
		write(t, dir, "peer.pem", openssl(t, dir, "ecparam", "-name", "secp384r1", "-genkey", "-noout"))
		peer := openssl(t, dir, "pkey", "-in", "peer.pem", "-pubout", "-outform", "der")
		openssl(t, dir, "pkey", "-in", "key.pem", "-pubout", "-out", "public.pem")
		want := openssl(t, dir, "pkeyutl", "-derive", "-inkey", "peer.pem", "-peerkey", "public.pem")
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
	public := openssl(t, dir, "pkey", "-in", "key.pem", "-pubout", "-outform", "der")
	got, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil || !bytes.Equal(got.PublicKey, public) {
		t.Fatalf("%s: GetPublicKey: %v", spec, err)
	}
	algorithm := got.SigningAlgorithms[0]
	out, err := c.Sign(ctx, &kms.SignInput{KeyId: &id, Message: message, SigningAlgorithm: algorithm})
	if err != nil {
		t.Fatalf("%s: Sign: %v", spec, err)
	}
	write(t, dir, "message", message)
	write(t, dir, "signature", out.Signature)
	write(t, dir, "public.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	if spec == types.KeySpecEccNistEdwards25519 {
		openssl(t, dir, "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in", "message", "-sigfile", "signature")
		return
	}
	hash := "-sha" + string(algorithm[len(algorithm)-3:])
	openssl(t, dir, "dgst", hash, "-verify", "public.pem", "-signature", "signature", "message")
}

// TestImportAgain: deletion and the same material give back the same
// ciphertexts and MACs; other material is refused.
func TestImportAgain(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c, ctx := r.Client(""), t.Context()
	m := symmetric(t, c)
	first := m.run(t)
	secret := seal(t, c, m.id, "secret")
	if secret.material != *first.KeyMaterialId || current(t, c, m.id) != secret.material {
		t.Errorf("material %s of the import, %s of the ciphertext", *first.KeyMaterialId, secret.material)
	}
	other := t.TempDir()
	openssl(t, other, "rand", "-out", "material.bin", "32")
	wrong := *m
	wrong.dir = other
	for _, when := range []string{"while there is material", "after it was deleted"} {
		if _, err := c.ImportKeyMaterial(ctx, wrong.parameters(t)); code(err) != "IncorrectKeyMaterialException" {
			t.Errorf("other material %s: %v", when, err)
		}
		if when == "after it was deleted" {
			break
		}
		secret.open(t, c)
		out, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &m.id})
		if err != nil || *out.KeyMaterialId != secret.material {
			t.Fatalf("DeleteImportedKeyMaterial: %v", err)
		}
	}
	if got := state(t, c, m.id); got != "PendingImport" {
		t.Errorf("the key is %s without its material", got)
	}
	if got := objects(t, r, "cmkd:"+m.id); len(got) != 0 {
		t.Errorf("the token has %v after its material was deleted", got)
	}
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.blob}); code(err) != "KMSInvalidStateException" {
		t.Errorf("Decrypt without material: %v", err)
	}
	// Once more: deleting nothing is no error.
	if _, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &m.id}); err != nil {
		t.Errorf("deleting it again: %v", err)
	}
	again := m.run(t)
	if *again.KeyMaterialId != secret.material || secret.open(t, c) != secret.material {
		t.Errorf("the material is %s when it comes back", *again.KeyMaterialId)
	}
	// The same material over itself is allowed, with another expiry.
	m.run(t)
	secret.open(t, c)
	if got := objects(t, r, "cmkd:"+m.id); len(got) != 1 {
		t.Errorf("the token has %v", got)
	}
	// Another key's ciphertexts are its own, even of the same material.
	twin := *m
	twin.id = external(t, c, types.KeySpecSymmetricDefault, "")
	twin.run(t)
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{KeyId: &twin.id, CiphertextBlob: secret.blob}); code(err) != "IncorrectKeyException" {
		t.Errorf("Decrypt under a twin: %v", err)
	}

	mac := &importing{c: c, dir: t.TempDir(), algorithm: types.AlgorithmSpecRsaAesKeyWrapSha256, wrapping: types.WrappingKeySpecRsa2048}
	mac.id = external(t, c, types.KeySpecHmac512, types.KeyUsageTypeGenerateVerifyMac)
	openssl(t, mac.dir, "rand", "-out", "material.bin", "64")
	mac.run(t)
	if _, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &mac.id}); err != nil {
		t.Fatal(err)
	}
	mac.run(t)
	h := hmac.New(sha512.New, read(t, mac.dir, "material.bin"))
	h.Write([]byte("message"))
	if _, err := c.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: &mac.id, Message: []byte("message"), Mac: h.Sum(nil), MacAlgorithm: types.MacAlgorithmSpecHmacSha512}); err != nil {
		t.Errorf("VerifyMac: %v", err)
	}
}

// TestImportToken: a token serves its own key, its own wrapping key, for 24
// hours, once.
func TestImportToken(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	m, other := symmetric(t, c), symmetric(t, c)
	try := func(what string, in *kms.ImportKeyMaterialInput, want string) {
		t.Helper()
		if _, err := c.ImportKeyMaterial(ctx, in); code(err) != want {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	mine, hers := m.parameters(t), other.parameters(t)
	crossed := *mine
	crossed.ImportToken = hers.ImportToken
	try("the token of another key", &crossed, "InvalidImportTokenException")
	forged := *mine
	forged.ImportToken = slices.Clone(mine.ImportToken)
	forged.ImportToken[0] ^= 1
	try("a token that was altered", &forged, "InvalidImportTokenException")
	second := m.parameters(t)
	mixed := *second
	mixed.EncryptedKeyMaterial = mine.EncryptedKeyMaterial
	try("material for another wrapping key", &mixed, "InvalidCiphertextException")
	damaged := *mine
	damaged.EncryptedKeyMaterial = slices.Clone(mine.EncryptedKeyMaterial)
	damaged.EncryptedKeyMaterial[10] ^= 1
	try("damaged material", &damaged, "InvalidCiphertextException")
	short := *m
	short.dir = t.TempDir()
	openssl(t, short.dir, "rand", "-out", "material.bin", "31")
	if _, err := c.ImportKeyMaterial(ctx, short.parameters(t)); code(err) == "" || strings.Contains(code(err), "Internal") {
		t.Errorf("material of 31 bytes: %v", err)
	}
	try("the right token", mine, "")
	try("the token once more", mine, "InvalidImportTokenException")

	cl.jump(24*time.Hour - time.Second)
	runJobs(t, r)
	try("a second before 24 hours", hers, "")
	late := m.parameters(t)
	cl.jump(24 * time.Hour)
	try("after 24 hours", late, "ExpiredImportTokenException")
	runJobs(t, r)
	for _, id := range []string{m.id, other.id} {
		if got := objects(t, r, "import-"+id); len(got) != 0 {
			t.Errorf("wrapping pairs that expired are left: %v", got)
		}
	}
	try("an expired token when it is forgotten", late, "InvalidImportTokenException")
}

// TestImportExpires: the material goes at its time, and comes back by hand.
func TestImportExpires(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	m := symmetric(t, c)
	for _, tt := range []struct {
		model types.ExpirationModelType
		to    *time.Time
	}{
		{"", nil},
		{types.ExpirationModelTypeKeyMaterialExpires, nil},
		{types.ExpirationModelTypeKeyMaterialDoesNotExpire, aws.Time(cl.Now().Add(day))},
		{types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now())},
		{types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(366 * day))},
	} {
		in := m.parameters(t)
		in.ExpirationModel, in.ValidTo = tt.model, tt.to
		if _, err := c.ImportKeyMaterial(ctx, in); code(err) != "ValidationException" {
			t.Errorf("%s until %v: %v", tt.model, tt.to, err)
		}
	}
	in := m.parameters(t)
	in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(10*day))
	if _, err := c.ImportKeyMaterial(ctx, in); err != nil {
		t.Fatal(err)
	}
	secret := seal(t, c, m.id, "secret")
	meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &m.id})
	if err != nil || meta.KeyMetadata.ExpirationModel != types.ExpirationModelTypeKeyMaterialExpires || !meta.KeyMetadata.ValidTo.Equal(*in.ValidTo) {
		t.Errorf("DescribeKey: %+v, %v", meta.KeyMetadata, err)
	}
	cl.pass(t, r, 10*day-time.Second, day)
	secret.open(t, c)
	cl.jump(time.Second) // the jobs have not run
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.blob}); code(err) != "KMSInvalidStateException" {
		t.Errorf("Decrypt at the moment of expiry: %v", err)
	}
	runJobs(t, r)
	if got := objects(t, r, "cmkd:"+m.id); len(got) != 0 {
		t.Errorf("expired material is left: %v", got)
	}
	cl.jump(-5 * day)
	runJobs(t, r)
	if got := state(t, c, m.id); got != "PendingImport" {
		t.Errorf("the key is %s after the clock went back", got)
	}
	m.run(t)
	secret.open(t, c)
	meta, err = c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &m.id})
	if err != nil || meta.KeyMetadata.ValidTo != nil {
		t.Errorf("DescribeKey of material that does not expire: %+v, %v", meta.KeyMetadata, err)
	}

	// A jump of the clock destroys no material.
	short := symmetric(t, c)
	in = short.parameters(t)
	in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(10*day))
	if _, err := c.ImportKeyMaterial(ctx, in); err != nil {
		t.Fatal(err)
	}
	cl.jump(20 * day)
	runJobs(t, r)
	if got := state(t, c, short.id); got != "PendingImport" || len(objects(t, r, "cmkd:"+short.id)) != 1 {
		t.Errorf("after a jump the key is %s and the token has %v", got, objects(t, r, "cmkd:"+short.id))
	}
}

// TestImportRotates: new material waits until it is rotated to; old material
// goes on decrypting; a key that lacks any of them is pending import.
func TestImportRotates(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c, ctx := r.Client(""), t.Context()
	m := symmetric(t, c)
	m.run(t)
	old := seal(t, c, m.id, "old")
	rotate := func(want string) {
		t.Helper()
		if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &m.id}); code(err) != want {
			t.Errorf("RotateKeyOnDemand: %v, want %q", err, want)
		}
	}
	rotate("KMSInvalidStateException") // nothing waits
	fresh := *m
	fresh.dir = t.TempDir()
	openssl(t, fresh.dir, "rand", "-out", "material.bin", "32")
	in := fresh.parameters(t)
	in.ImportType, in.KeyMaterialDescription = types.ImportTypeNewKeyMaterial, aws.String("the second one")
	out, err := c.ImportKeyMaterial(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if got := seal(t, c, m.id, "still old").material; got != old.material || *out.KeyMaterialId == old.material {
		t.Errorf("material %s is used before the rotation", got)
	}
	third := fresh.parameters(t)
	third.ImportType = types.ImportTypeNewKeyMaterial
	refused := regexp.MustCompile(`^New key material \(id: [0-9a-f]{64}\) cannot be imported into KMS key ` + regexp.QuoteMeta(arn("key/"+m.id)) +
		`, because another key material \(id: ` + *out.KeyMaterialId + `\) is pending rotation\.$`)
	if _, err := c.ImportKeyMaterial(ctx, third); code(err) != "KMSInvalidStateException" || !refused.MatchString(message(err)) {
		t.Errorf("a second material that waits: %v", err)
	}
	list, err := c.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: &m.id, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
	if err != nil || len(list.Rotations) != 2 || list.Rotations[0].KeyMaterialState != types.KeyMaterialStateCurrent ||
		list.Rotations[1].KeyMaterialState != types.KeyMaterialStatePendingRotation || aws.ToString(list.Rotations[1].KeyMaterialDescription) != "the second one" {
		t.Errorf("ListKeyRotations: %+v, %v", list, err)
	}
	rotate("")
	rotate("KMSInvalidStateException")
	newer := seal(t, c, m.id, "new")
	if newer.material != *out.KeyMaterialId {
		t.Errorf("sealed with %s after the rotation", newer.material)
	}
	old.open(t, c)
	if n := len(rotations(t, c, m.id)); n != 1 {
		t.Errorf("%d rotations", n)
	}

	if _, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &m.id, KeyMaterialId: &old.material}); err != nil {
		t.Fatal(err)
	}
	if got := state(t, c, m.id); got != "PendingImport" {
		t.Errorf("the key is %s without its old material", got)
	}
	back := m.parameters(t)
	back.KeyMaterialId = &newer.material
	if _, err := c.ImportKeyMaterial(ctx, back); code(err) != "IncorrectKeyMaterialException" {
		t.Errorf("the old material in the place of the new: %v", err)
	}
	back.KeyMaterialId = &old.material
	if _, err := c.ImportKeyMaterial(ctx, back); err != nil {
		t.Fatal(err)
	}
	old.open(t, c)
	newer.open(t, c)
	if got := state(t, c, m.id); got != "Enabled" {
		t.Errorf("the key is %s with all its material", got)
	}
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &m.id}); code(err) != "UnsupportedOperationException" {
		t.Errorf("EnableKeyRotation of imported material: %v", err)
	}
}
