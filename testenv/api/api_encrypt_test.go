package api

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

var invalidCiphertext = want{"InvalidCiphertextException", ""}

// testEncryptionContext: unordered, exact, UTF-8, and for symmetric keys only.
func testEncryptionContext(t *testing.T, a *api) {
	id := a.symmetric(t)
	rsaKey := a.key(t, types.KeySpecRsa2048, usageEncrypt)
	given := map[string]string{"purpose": "test", "größe": "±1", "empty": ""}
	sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage, EncryptionContext: given})
	if err != nil {
		t.Fatal(err)
	}
	bare, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		blob    []byte
		context map[string]string
		want    want
	}{
		{"same", sealed.CiphertextBlob, map[string]string{"empty": "", "größe": "±1", "purpose": "test"}, wantOK()},
		{"none", sealed.CiphertextBlob, nil, invalidCiphertext},
		{"less", sealed.CiphertextBlob, map[string]string{"purpose": "test", "größe": "±1"}, invalidCiphertext},
		{"more", sealed.CiphertextBlob, map[string]string{"purpose": "test", "größe": "±1", "empty": "", "x": "y"}, invalidCiphertext},
		{"other value", sealed.CiphertextBlob, map[string]string{"purpose": "Test", "größe": "±1", "empty": ""}, invalidCiphertext},
		{"other key", sealed.CiphertextBlob, map[string]string{"Purpose": "test", "größe": "±1", "empty": ""}, invalidCiphertext},
		{"decomposed letters", sealed.CiphertextBlob, map[string]string{"purpose": "test", "gro\u0308ße": "±1", "empty": ""}, invalidCiphertext},
		{"bytes that move between key and value", sealed.CiphertextBlob, map[string]string{"purposet": "est", "größe": "±1", "empty": ""}, invalidCiphertext},
		{"empty of none", bare.CiphertextBlob, map[string]string{}, wantOK()},
		{"some of none", bare.CiphertextBlob, map[string]string{"": ""}, invalidCiphertext},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			out, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: test.blob, EncryptionContext: test.context})
			test.want.check(t, err)
			if err == nil && !bytes.Equal(out.Plaintext, aMessage) {
				t.Error("another plaintext came back")
			}
		})
	}
	t.Run("of an RSA key", func(t *testing.T) {
		t.Parallel()
		noContext := validation("EncryptionContext is not supported when encrypting/decrypting with asymmetric CMKs.")
		_, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: rsaKey, Plaintext: aMessage, EncryptionAlgorithm: oaep1, EncryptionContext: given})
		noContext.check(t, err)
		_, err = a.Decrypt(t.Context(), &kms.DecryptInput{KeyId: rsaKey, CiphertextBlob: make([]byte, 256), EncryptionAlgorithm: oaep1, EncryptionContext: given})
		noContext.check(t, err)
	})
}

const (
	oaep1   = types.EncryptionAlgorithmSpecRsaesOaepSha1
	oaep256 = types.EncryptionAlgorithmSpecRsaesOaepSha256
)

// testOAEP encrypts and decrypts with every RSA key and both hashes: what Go
// and openssl encrypt is decrypted, and AWS's limits hold to the byte.
func testOAEP(t *testing.T, a *api) {
	limits := map[types.KeySpec]map[types.EncryptionAlgorithmSpec]int{
		"RSA_2048": {oaep1: 214, oaep256: 190}, "RSA_3072": {oaep1: 342, oaep256: 318}, "RSA_4096": {oaep1: 470, oaep256: 446},
	}
	for spec, algorithms := range limits {
		for algorithm, limit := range algorithms {
			t.Run(fmt.Sprintf("%s %s", spec, algorithm), func(t *testing.T) {
				t.Parallel()
				id := a.key(t, spec, usageEncrypt)
				decrypts := func(what string, blob, plaintext []byte) {
					t.Helper()
					out, err := a.Decrypt(t.Context(), &kms.DecryptInput{KeyId: id, EncryptionAlgorithm: algorithm, CiphertextBlob: blob})
					if err != nil || !bytes.Equal(out.Plaintext, plaintext) {
						t.Errorf("Decrypt of what %s encrypted: %v", what, err)
					} else if aws.ToString(out.KeyId) != keyARN(id) || out.KeyMaterialId != nil || out.EncryptionAlgorithm != algorithm {
						t.Errorf("Decrypt answers %+v", out)
					}
				}
				longest := bytes.Repeat([]byte{7}, limit)
				sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, EncryptionAlgorithm: algorithm, Plaintext: longest})
				if err != nil {
					t.Fatal(err)
				}
				decrypts("Encrypt", sealed.CiphertextBlob, longest)
				_, err = a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, EncryptionAlgorithm: algorithm, Plaintext: append(longest, 7)})
				validation(fmt.Sprintf("Algorithm %s and key spec %s cannot encrypt data larger than %d bytes.", algorithm, spec, limit)).check(t, err)

				public, err := a.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: id})
				if err != nil {
					t.Fatal(err)
				}
				parsed, err := x509.ParsePKIXPublicKey(public.PublicKey)
				if err != nil {
					t.Fatal(err)
				}
				hash, digest := crypto.SHA1, "sha1"
				if algorithm == oaep256 {
					hash, digest = crypto.SHA256, "sha256"
				}
				here, err := rsa.EncryptOAEP(hash.New(), rand.Reader, parsed.(*rsa.PublicKey), aMessage, nil)
				if err != nil {
					t.Fatal(err)
				}
				decrypts("Go", here, aMessage)
				path := filepath.Join(t.TempDir(), "key.pem")
				if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public.PublicKey}), 0o600); err != nil {
					t.Fatal(err)
				}
				there := runOpenSSL(t, aMessage, "pkeyutl", "-encrypt", "-pubin", "-inkey", path,
					"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+digest, "-pkeyopt", "rsa_mgf1_md:"+digest)
				decrypts("openssl", []byte(there), aMessage)
				other := oaep1
				if algorithm == oaep1 {
					other = oaep256
				}
				_, err = a.Decrypt(t.Context(), &kms.DecryptInput{KeyId: id, EncryptionAlgorithm: other, CiphertextBlob: here})
				invalidCiphertext.check(t, err)
			})
		}
	}
}

// testDecrypt: which key and algorithm a ciphertext may be decrypted with.
func testDecrypt(t *testing.T, a *api) {
	id, other := a.symmetric(t), a.fresh(t, &kms.CreateKeyInput{})
	rsaKey := a.key(t, types.KeySpecRsa2048, usageEncrypt)
	alias := aws.String("alias/decrypt-" + *id)
	if _, err := a.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: alias, TargetKeyId: id}); err != nil {
		t.Fatal(err)
	}
	disabled := a.fresh(t, &kms.CreateKeyInput{})
	if _, err := a.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: disabled}); err != nil {
		t.Fatal(err)
	}
	sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: alias, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	blob := sealed.CiphertextBlob
	decrypt := func(key *string, algorithm types.EncryptionAlgorithmSpec, blob []byte) func(context.Context) error {
		return func(ctx context.Context) error {
			out, err := a.Decrypt(ctx, &kms.DecryptInput{KeyId: key, EncryptionAlgorithm: algorithm, CiphertextBlob: blob})
			if err == nil && !bytes.Equal(out.Plaintext, aMessage) {
				return fmt.Errorf("another plaintext came back")
			}
			return err
		}
	}
	incompatible := func(algorithm, spec string) want {
		return want{"InvalidKeyUsageException", fmt.Sprintf("Algorithm %s is incompatible with key spec %s.", algorithm, spec)}
	}
	runCalls(t, []call{
		{"without a key", decrypt(nil, "", blob), wantOK()},
		{"by ID", decrypt(id, "", blob), wantOK()},
		{"by ARN", decrypt(aws.String(keyARN(id)), "SYMMETRIC_DEFAULT", blob), wantOK()},
		{"by alias", decrypt(alias, "", blob), wantOK()},
		{"by alias ARN", decrypt(aws.String(rig.ARN(*alias)), "", blob), wantOK()},
		{"another key", decrypt(other, "", blob), incorrectKey},
		{"a signing key", decrypt(a.signing(t), "", blob), incorrectKey},
		{"an RSA key", decrypt(rsaKey, "", blob), incorrectKey},
		{"no key", decrypt(aws.String(unknownID), "", blob), notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID))},
		{"no alias", decrypt(aws.String("alias/none"), "", blob), notFound("Alias %s is not found.", rig.ARN("alias/none"))},
		{"an algorithm of RSA", decrypt(id, oaep1, blob), incompatible("RSAES_OAEP_SHA_1", "SYMMETRIC_DEFAULT")},
		{"RSA without a key", decrypt(nil, oaep1, blob), validation("KeyId must not be null")},
		{"a signing key with an algorithm of RSA", decrypt(a.signing(t), oaep1, blob), want{"InvalidKeyUsageException", keyARN(a.signing(t)) + " key usage is SIGN_VERIFY which is not valid for Decrypt."}},
		{"an RSA ciphertext without its algorithm", decrypt(rsaKey, "", make([]byte, 256)), invalidCiphertext},
		{"another key, which is disabled", decrypt(disabled, "", blob), incorrectKey},
		{"nonsense with a disabled key", decrypt(disabled, "", []byte("nonsense")), invalidCiphertext},
		{"a symmetric blob with RSA", decrypt(rsaKey, oaep1, blob), invalidCiphertext},
		{"nonsense", decrypt(nil, "", []byte("nonsense")), invalidCiphertext},
		{"nonsense with a key", decrypt(id, "", []byte("nonsense")), invalidCiphertext},
	})
	t.Run("in another Region", func(t *testing.T) {
		wantHidden("Decrypt").check(t, rig.ErrOf(a.other.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob})))
	})
	t.Run("Encrypt with an algorithm of RSA", func(t *testing.T) {
		_, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage, EncryptionAlgorithm: oaep1})
		incompatible("RSAES_OAEP_SHA_1", "SYMMETRIC_DEFAULT").check(t, err)
		_, err = a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: rsaKey, Plaintext: aMessage})
		incompatible("SYMMETRIC_DEFAULT", "RSA_2048").check(t, err)
	})
	t.Run("longest and shortest plaintext", func(t *testing.T) {
		for _, n := range []int{1, 4095, 4096} {
			plaintext := bytes.Repeat([]byte{1}, n)
			sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: plaintext})
			if err != nil {
				t.Fatal(err)
			}
			out, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
			if err != nil || !bytes.Equal(out.Plaintext, plaintext) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	})
	t.Run("two ciphertexts differ", func(t *testing.T) {
		again, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage})
		if err != nil || bytes.Equal(again.CiphertextBlob, blob) {
			t.Errorf("the same ciphertext twice, %v", err)
		}
	})
}

// testReEncrypt moves plaintexts and wrapped data keys between keys.
func testReEncrypt(t *testing.T, a *api) {
	from, to := a.symmetric(t), a.fresh(t, &kms.CreateKeyInput{})
	rsa1, rsa2 := a.key(t, types.KeySpecRsa2048, usageEncrypt), a.key(t, types.KeySpecRsa3072, usageEncrypt)
	context1, context2 := map[string]string{"a": "b"}, map[string]string{"c": "d"}
	seal := func(id *string, algorithm types.EncryptionAlgorithmSpec, context map[string]string) []byte {
		t.Helper()
		out, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage, EncryptionAlgorithm: algorithm, EncryptionContext: context})
		if err != nil {
			t.Fatal(err)
		}
		return out.CiphertextBlob
	}
	inSymmetric, withContext, inRSA := seal(from, "", nil), seal(from, "", context1), seal(rsa1, oaep256, nil)
	for _, test := range []struct {
		name string
		in   kms.ReEncryptInput
		want want
	}{
		{"symmetric to symmetric", kms.ReEncryptInput{CiphertextBlob: inSymmetric, DestinationKeyId: to}, wantOK()},
		{"naming the source", kms.ReEncryptInput{CiphertextBlob: inSymmetric, SourceKeyId: from, DestinationKeyId: to}, wantOK()},
		{"to itself", kms.ReEncryptInput{CiphertextBlob: inSymmetric, DestinationKeyId: from}, wantOK()},
		{"contexts", kms.ReEncryptInput{CiphertextBlob: withContext, SourceEncryptionContext: context1, DestinationKeyId: to, DestinationEncryptionContext: context2}, wantOK()},
		{"context dropped", kms.ReEncryptInput{CiphertextBlob: withContext, SourceEncryptionContext: context1, DestinationKeyId: to}, wantOK()},
		{"symmetric to RSA", kms.ReEncryptInput{CiphertextBlob: inSymmetric, DestinationKeyId: rsa1, DestinationEncryptionAlgorithm: oaep1}, wantOK()},
		{"RSA to symmetric", kms.ReEncryptInput{CiphertextBlob: inRSA, SourceKeyId: rsa1, SourceEncryptionAlgorithm: oaep256, DestinationKeyId: to, DestinationEncryptionContext: context2}, wantOK()},
		{"RSA to RSA", kms.ReEncryptInput{CiphertextBlob: inRSA, SourceKeyId: rsa1, SourceEncryptionAlgorithm: oaep256, DestinationKeyId: rsa2, DestinationEncryptionAlgorithm: oaep256}, wantOK()},
		{"RSA to itself with the other hash", kms.ReEncryptInput{CiphertextBlob: inRSA, SourceKeyId: rsa1, SourceEncryptionAlgorithm: oaep256, DestinationKeyId: rsa1, DestinationEncryptionAlgorithm: oaep1}, wantOK()},
		{"wrong context", kms.ReEncryptInput{CiphertextBlob: withContext, SourceEncryptionContext: context2, DestinationKeyId: to}, invalidCiphertext},
		{"wrong source", kms.ReEncryptInput{CiphertextBlob: inSymmetric, SourceKeyId: to, DestinationKeyId: to}, incorrectKey},
		{"nonsense", kms.ReEncryptInput{CiphertextBlob: []byte("nonsense"), DestinationKeyId: to}, invalidCiphertext},
		{"RSA without its key", kms.ReEncryptInput{CiphertextBlob: inRSA, SourceEncryptionAlgorithm: oaep256, DestinationKeyId: to}, validation("KeyId must not be null")},
		{"context for RSA", kms.ReEncryptInput{CiphertextBlob: inSymmetric, DestinationKeyId: rsa1, DestinationEncryptionAlgorithm: oaep1, DestinationEncryptionContext: context1}, wantCode("ValidationException")},
		{"to a signing key", kms.ReEncryptInput{CiphertextBlob: inSymmetric, DestinationKeyId: a.signing(t)}, want{"InvalidKeyUsageException", keyARN(a.signing(t)) + " key usage is SIGN_VERIFY which is not valid for ReEncryptTo."}},
		{"to RSA as symmetric", kms.ReEncryptInput{CiphertextBlob: inSymmetric, DestinationKeyId: rsa1}, want{"InvalidKeyUsageException", "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."}},
		{"to no key", kms.ReEncryptInput{CiphertextBlob: inSymmetric, DestinationKeyId: aws.String(unknownID)}, notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID))},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			out, err := a.ReEncrypt(t.Context(), &test.in)
			test.want.check(t, err)
			if err != nil {
				return
			}
			asked := func(a types.EncryptionAlgorithmSpec) types.EncryptionAlgorithmSpec {
				if a == "" {
					return types.EncryptionAlgorithmSpecSymmetricDefault
				}
				return a
			}
			source, destination := asked(test.in.SourceEncryptionAlgorithm), asked(test.in.DestinationEncryptionAlgorithm)
			if out.SourceEncryptionAlgorithm != source || out.DestinationEncryptionAlgorithm != destination ||
				(out.SourceKeyMaterialId != nil) != (source == "SYMMETRIC_DEFAULT") || (out.DestinationKeyMaterialId != nil) != (destination == "SYMMETRIC_DEFAULT") {
				t.Errorf("the answer is %+v", out)
			}
			opened, err := a.Decrypt(t.Context(), &kms.DecryptInput{
				KeyId: test.in.DestinationKeyId, EncryptionAlgorithm: destination, CiphertextBlob: out.CiphertextBlob, EncryptionContext: test.in.DestinationEncryptionContext,
			})
			if err != nil || !bytes.Equal(opened.Plaintext, aMessage) {
				t.Errorf("Decrypt afterwards: %v", err)
			}
		})
	}
	t.Run("a plaintext too long for RSA", func(t *testing.T) {
		t.Parallel()
		long, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: from, Plaintext: make([]byte, 215)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: long.CiphertextBlob, DestinationKeyId: rsa1, DestinationEncryptionAlgorithm: oaep1})
		validation("Algorithm RSAES_OAEP_SHA_1 and key spec RSA_2048 cannot encrypt data larger than 214 bytes.").check(t, err)
	})
	t.Run("a data key", func(t *testing.T) {
		t.Parallel()
		moveDataKey(t, a, from, to, rsa1)
	})
}

// moveDataKey moves a wrapped data key, which stays wrapped, and reaches its
// recipient as it was made.
func moveDataKey(t *testing.T, a *api, from, to, rsaKey *string) {
	t.Helper()
	made, err := a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: from, KeySpec: types.DataKeySpecAes256, Recipient: toTests().info()})
	if err != nil {
		t.Fatal(err)
	}
	dataKey := toTests().open(t, made.CiphertextForRecipient)
	moved, err := a.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: made.CiphertextBlob, DestinationKeyId: to})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: moved.CiphertextBlob, Recipient: toTests().info()})
	if err != nil || !bytes.Equal(toTests().open(t, opened.CiphertextForRecipient), dataKey) {
		t.Errorf("the data key changed on its way: %v", err)
	}
	_, err = a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: moved.CiphertextBlob})
	want{"AccessDeniedException", anyMessage}.check(t, err)
	// An RSA ciphertext does not say what it holds: Decrypt could not keep the
	// data key from leaving in the clear.
	_, err = a.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: moved.CiphertextBlob, DestinationKeyId: rsaKey, DestinationEncryptionAlgorithm: oaep1})
	want{"AccessDeniedException", anyMessage}.check(t, err)
}
