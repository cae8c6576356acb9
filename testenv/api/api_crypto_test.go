package api

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// accountPolicy is a key policy that hands over to the account.
const accountPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + rig.Account + `:root"},"Action":"kms:*","Resource":"*"}]}`

// rsaPair is a key pair of a recipient.
type rsaPair struct {
	private *rsa.PrivateKey
	public  []byte // DER SubjectPublicKeyInfo
}

// toTests is a recipient that tests share, where making one takes a while.
var toTests = sync.OnceValue(func() *rsaPair {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // the system has no randomness
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		panic(err) // an RSA key always has the form
	}
	return &rsaPair{private, public}
})

// info is the recipient in a request. SHA-1 is all that SoftHSM2 wraps with.
func (p *rsaPair) info() *types.RecipientInfo {
	return &types.RecipientInfo{AttestationDocument: p.public, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"}
}

// open decrypts what was sent to the recipient.
func (p *rsaPair) open(t *testing.T, sealed []byte) []byte {
	t.Helper()
	opened, err := rsa.DecryptOAEP(sha1.New(), nil, p.private, sealed, nil)
	if err != nil {
		t.Fatalf("opening for the recipient: %v", err)
	}
	return opened
}

// sealOAEP1 encrypts to a DER public key with RSAES-OAEP and SHA-1.
func sealOAEP1(t *testing.T, public, plaintext []byte) []byte {
	t.Helper()
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("a public key of type %T", parsed)
	}
	sealed, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key, plaintext, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// runOpenSSL runs openssl with input and returns what it prints.
func runOpenSSL(t *testing.T, input []byte, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	var complaint strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(input)), &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s%s", args, err, out, complaint.String())
	}
	return string(out)
}

// signingHashes are the hashes of the algorithms that sign a digest.
var signingHashes = map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}

func hashOf(algorithm string) crypto.Hash { return signingHashes[algorithm[len(algorithm)-3:]] }

func digest(h crypto.Hash, message []byte) []byte {
	w := h.New()
	w.Write(message)
	return w.Sum(nil)
}

// verifyHere verifies with Go's standard library what it knows.
func verifyHere(der []byte, algorithm string, message, signature []byte) error {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return err
	}
	switch key := parsed.(type) {
	case ed25519.PublicKey:
		return ed25519.VerifyWithOptions(key, message, signature, &ed25519.Options{})
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, digest(hashOf(algorithm), message), signature) {
			return fmt.Errorf("no ECDSA signature of the message")
		}
		return nil
	case *rsa.PublicKey:
		h := hashOf(algorithm)
		if strings.Contains(algorithm, "PSS") {
			return rsa.VerifyPSS(key, h, digest(h, message), signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.VerifyPKCS1v15(key, h, digest(h, message), signature)
	}
	return fmt.Errorf("a key of type %T", parsed)
}

// verifyOpenSSL verifies with openssl.
func verifyOpenSSL(t *testing.T, der []byte, algorithm string, message, signature []byte) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	sig := write("sig", signature)
	if strings.HasPrefix(algorithm, "ED25519") {
		runOpenSSL(t, nil, "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", write("message", message), "-sigfile", sig)
		return
	}
	args := []string{"dgst", "-sha" + algorithm[len(algorithm)-3:], "-verify", key, "-signature", sig}
	if strings.Contains(algorithm, "PSS") {
		args = append(args, "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest")
	}
	if out := runOpenSSL(t, message, args...); !strings.Contains(out, "Verified OK") {
		t.Errorf("openssl says %s", out)
	}
}
