package api

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/daemon"
	"cmkd/testenv"
	"cmkd/testenv/nitro"
	"cmkd/testenv/rig"
	"cmkd/testenv/rsahsm"
)

// enclave is a recipient that attests.
type enclave struct {
	*rig.Recipient
	authority *nitro.Authority
	file      string // the private key, for openssl
}

func newEnclave(t *testing.T, now time.Time) *enclave {
	t.Helper()
	e := &enclave{Recipient: rig.NewRecipient(t), authority: nitro.NewAuthority(t, now)}
	der, err := x509.MarshalPKCS8PrivateKey(e.Private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	rig.WriteFile(t, dir, "enclave.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	e.file = filepath.Join(dir, "enclave.pem")
	return e
}

// roots is the configuration that trusts the enclave's authority.
func (e *enclave) roots(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	rig.WriteFile(t, dir, "root.pem", e.authority.PEM())
	return fmt.Sprintf("attestation_roots = [%q]\n", filepath.Join(dir, "root.pem"))
}

func (e *enclave) attest(t *testing.T, edits ...func(*nitro.Draft)) *types.RecipientInfo {
	t.Helper()
	return &types.RecipientInfo{
		AttestationDocument:    e.authority.Document(t, e.Public, edits...),
		KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
	}
}

// open opens CiphertextForRecipient as openssl does.
func (e *enclave) open(t *testing.T, sealed []byte) []byte {
	t.Helper()
	return []byte(runOpenSSL(t, sealed, "cms", "-decrypt", "-inform", "DER", "-inkey", e.file))
}

// TestAttestation is a daemon with a root for attestation documents, on a token
// that can wrap to their recipients.
func TestAttestation(t *testing.T) {
	t.Parallel()
	clock := rig.NewClock()
	e := newEnclave(t, clock.Now())
	tok := testenv.NewToken(t)
	path, env := rsahsm.New(t, tok.Module)
	r := rig.New(t, rig.Config{Token: tok, Module: path, Env: rig.Variables(env), Now: clock.Now, Extra: e.roots(t) + "token_only_import = true"})
	c := r.Client("")
	key := rig.NewKey(t, c, &kms.CreateKeyInput{})
	t.Run("calls", func(t *testing.T) {
		t.Run("operations", func(t *testing.T) { t.Parallel(); attestedOperations(t, c, e, key) })
		t.Run("conditions", func(t *testing.T) { t.Parallel(); attestedConditions(t, c, e) })
		t.Run("refusals", func(t *testing.T) { t.Parallel(); attestedRefusals(t, c, e, key) })
		t.Run("import", func(t *testing.T) { t.Parallel(); rig.NewImport(t, c).Run(t) }) // in the token
	})
	trail := r.AuditTrail(t)
	if want := fmt.Sprintf(`"recipient":{"attestationDocumentModuleId":"i-0123456789abcdef0-enc0123456789abcdef",`+
		`"attestationDocumentEnclaveImageDigest":"%x","attestationDocumentEnclavePCR1":"%x"`, nitro.PCR(0), nitro.PCR(1)); !strings.Contains(trail, want) {
		t.Errorf("the audit trail has no %s", want)
	}
	if strings.Contains(trail, "materialThroughPlugin") {
		t.Error("material was in the plugin's memory")
	}
	document := e.attest(t)
	clock.Jump(4 * time.Hour) // the enclave's certificate lives three
	_, err := c.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(8), Recipient: document})
	wantCode("ValidationException").check(t, err)
}

// attestedOperations answers each operation that has Recipient to an enclave.
func attestedOperations(t *testing.T, c *kms.Client, e *enclave, key string) {
	ctx, to := t.Context(), e.attest(t)
	decrypt := func(blob []byte) []byte {
		t.Helper()
		out, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, Recipient: to})
		if err != nil || out.Plaintext != nil {
			t.Fatalf("Decrypt: %v, in the clear: %t", err, out != nil && out.Plaintext != nil)
		}
		return e.open(t, out.CiphertextForRecipient)
	}
	for _, n := range []int32{1, 32, 33, 1024} {
		made, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &key, NumberOfBytes: &n, Recipient: to})
		if err != nil || made.Plaintext != nil {
			t.Fatalf("GenerateDataKey: %v", err)
		}
		if got := e.open(t, made.CiphertextForRecipient); len(got) != int(n) || !bytes.Equal(got, decrypt(made.CiphertextBlob)) {
			t.Errorf("a data key of %d bytes comes with %d, or changes", n, len(got))
		}
	}
	pair, err := c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecEccNistP384, Recipient: to})
	if err != nil || pair.PrivateKeyPlaintext != nil {
		t.Fatalf("GenerateDataKeyPair: %v", err)
	}
	private := e.open(t, pair.CiphertextForRecipient)
	expectPair(t, types.DataKeyPairSpecEccNistP384, private, pair.PublicKey)
	if !bytes.Equal(private, decrypt(pair.PrivateKeyCiphertextBlob)) {
		t.Error("the private key changes")
	}
	sealed, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	if got := decrypt(sealed.CiphertextBlob); !bytes.Equal(got, aMessage) {
		t.Errorf("a plaintext comes as %d bytes", len(got))
	}
	random, err := c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(100), Recipient: to})
	if err != nil || random.Plaintext != nil || len(e.open(t, random.CiphertextForRecipient)) != 100 {
		t.Errorf("GenerateRandom: %v", err)
	}
	ours := rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeKeyAgreement})
	derive := &kms.DeriveSharedSecretInput{KeyId: &ours, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: ecKey(t)}
	open, err := c.DeriveSharedSecret(ctx, derive)
	if err != nil {
		t.Fatal(err)
	}
	derive.Recipient = to
	secret, err := c.DeriveSharedSecret(ctx, derive)
	if err != nil || secret.SharedSecret != nil || !bytes.Equal(e.open(t, secret.CiphertextForRecipient), open.SharedSecret) {
		t.Errorf("DeriveSharedSecret: %v", err)
	}
}

// attestedConditions: key policies ask for measurements.
func attestedConditions(t *testing.T, c *kms.Client, e *enclave) {
	image, pcr8 := strings.ToUpper(hex.EncodeToString(nitro.PCR(0))), hex.EncodeToString(nitro.PCR(8))
	document := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::%[1]s:root"}, "NotAction": "kms:GenerateDataKey", "Resource": "*"},
		{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*",
			"Condition": {"StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": %[2]q}}},
		{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::%[1]s:root"}, "Action": "kms:GenerateDataKey", "Resource": "*",
			"Condition": {"StringEquals": {"kms:RecipientAttestation:PCR8": %[3]q}}}]}`, rig.Account, image, pcr8)
	id := rig.NewKey(t, c, &kms.CreateKeyInput{Policy: &document})
	sealed, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	with := func(index int, value []byte) func(*nitro.Draft) {
		return func(d *nitro.Draft) { d.Payload["pcrs"].(map[int][]byte)[index] = value }
	}
	without := func(index int) func(*nitro.Draft) {
		return func(d *nitro.Draft) { delete(d.Payload["pcrs"].(map[int][]byte), index) }
	}
	asTPM := func(d *nitro.Draft) {
		d.Payload["nitrotpm_pcrs"] = d.Payload["pcrs"]
		delete(d.Payload, "pcrs")
	}
	bare := &types.RecipientInfo{AttestationDocument: e.Public}
	for name, row := range map[string]struct {
		to                *types.RecipientInfo
		decrypt, generate bool
	}{
		"as wanted":         {e.attest(t), true, true},
		"another image":     {e.attest(t, with(0, nitro.PCR(9))), false, true},
		"a debug enclave":   {e.attest(t, with(0, make([]byte, 48)), with(8, make([]byte, 48))), false, false},
		"another signer":    {e.attest(t, with(8, nitro.PCR(9))), true, false},
		"no PCR8":           {e.attest(t, without(8)), true, false},
		"an instance's TPM": {e.attest(t, asTPM), false, false},
		"not attested":      {bare, false, false},
		"no recipient":      {nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for operation, call := range map[string]struct {
				allowed bool
				do      func(context.Context) error
			}{
				"Decrypt": {row.decrypt, func(ctx context.Context) error {
					return rig.ErrOf(c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, Recipient: row.to}))
				}},
				"GenerateDataKey": {row.generate, func(ctx context.Context) error {
					return rig.ErrOf(c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &id, KeySpec: types.DataKeySpecAes256, Recipient: row.to}))
				}},
			} {
				want := wantCode("AccessDeniedException")
				if call.allowed {
					want = wantOK()
				}
				t.Run(operation, func(t *testing.T) { want.check(t, call.do(t.Context())) })
			}
		})
	}
}

// attestedRefusals: what package attestation refuses is ValidationException.
func attestedRefusals(t *testing.T, c *kms.Client, e *enclave, key string) {
	stranger := newEnclave(t, time.Date(2026, time.January, 10, 12, 0, 0, 0, time.UTC))
	good := e.attest(t).AttestationDocument
	altered := bytes.Clone(good)
	altered[len(altered)-1] ^= 1
	for name, to := range map[string]*types.RecipientInfo{
		"another root":  stranger.attest(t),
		"expired":       e.attest(t, func(d *nitro.Draft) { d.Leaf.NotAfter = d.Leaf.NotBefore.Add(time.Second) }),
		"altered":       {AttestationDocument: altered},
		"cut":           {AttestationDocument: good[:len(good)/2]},
		"ES256":         e.attest(t, func(d *nitro.Draft) { d.Protected[1] = -7 }),
		"no public key": e.attest(t, func(d *nitro.Draft) { d.Payload["public_key"] = nil }),
		"a weak key":    e.attest(t, func(d *nitro.Draft) { d.Payload["public_key"] = exponent3(t, e.Private) }),
		"oversized":     e.attest(t, func(d *nitro.Draft) { d.Payload["more"] = make([]byte, 100<<10) }),
		"SHA-1":         {AttestationDocument: good, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, Recipient: to})
			wantCode("ValidationException").check(t, err)
		})
	}
}

// exponent3 is a public key of the exponent 3.
func exponent3(t *testing.T, private *rsa.PrivateKey) []byte {
	t.Helper()
	return publicDER(t, &rsa.PublicKey{N: private.N, E: 3})
}

// TestTokenOnly: on a token that lacks mechanisms, nothing passes through the
// plugin that must not. SoftHSM2 neither unwraps imports nor wraps by CMS.
func TestTokenOnly(t *testing.T) {
	t.Parallel()
	e := newEnclave(t, time.Now())
	r := rig.New(t, rig.Config{Extra: e.roots(t) + "token_only_import = true"})
	c := r.Client("")
	key, to := rig.NewKey(t, c, &kms.CreateKeyInput{}), e.attest(t)
	_, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, Recipient: to})
	wantCode("UnsupportedOperationException").check(t, err)
	if err == nil || !strings.Contains(err.Error(), "CKM_RSA_PKCS_OAEP with CKM_SHA256") {
		t.Errorf("the refusal does not name the mechanism: %v", err)
	}
	sealed, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, Recipient: to})
	if err != nil || out.Plaintext != nil || !bytes.Equal(e.open(t, out.CiphertextForRecipient), aMessage) {
		t.Errorf("a plaintext to an enclave: %v", err)
	}
	m := rig.NewImport(t, c)
	_, err = c.ImportKeyMaterial(t.Context(), m.Parameters(t))
	wantCode("UnsupportedOperationException").check(t, err)
	if got := rig.State(t, c, m.ID); got != "PendingImport" {
		t.Errorf("after a refused import the key is %s", got)
	}
}

// TestRootsUnreadable: a daemon does not start with a root that it cannot read.
func TestRootsUnreadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"none.pem": "no PEM", "missing.pem": ""} {
		path := filepath.Join(dir, name)
		if text != "" {
			rig.WriteFile(t, dir, name, []byte(text))
		}
		config := fmt.Sprintf("account = %q\nstate_dir = %q\nattestation_roots = [%q]\n[[token]]\nname = \"main\"\nmodule = \"/m\"\nlabel = \"l\"\npin_file = \"/p\"\n",
			rig.Account, dir, path)
		file := filepath.Join(dir, name+".toml")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := daemon.Open(t.Context(), file, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
