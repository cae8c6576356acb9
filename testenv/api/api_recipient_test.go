package api

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/client"
	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// testRecipients: every operation that has Recipient answers to it alone.
func testRecipients(t *testing.T, a *api) {
	id := a.symmetric(t)
	to := toTests()
	t.Run("GenerateDataKey and Decrypt", func(t *testing.T) {
		t.Parallel()
		for _, n := range []int32{1, 8, 16, 24, 32, 64, 128, 512, 1024} {
			made, err := a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: id, NumberOfBytes: &n, Recipient: to.info()})
			if err != nil {
				t.Errorf("%d bytes: %v", n, err)
				continue
			}
			if made.Plaintext != nil {
				t.Errorf("%d bytes: the data key came in the clear as well", n)
			}
			opened, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, Recipient: to.info()})
			if err != nil || opened.Plaintext != nil {
				t.Errorf("%d bytes: Decrypt: %v", n, err)
				continue
			}
			if n <= 128 { // longer ones come under a key of their own: see package client
				first, second := to.open(t, made.CiphertextForRecipient), to.open(t, opened.CiphertextForRecipient)
				if len(first) != int(n) || !bytes.Equal(first, second) {
					t.Errorf("%d bytes: %d came, then %d, equal: %t", n, len(first), len(second), bytes.Equal(first, second))
				}
			}
		}
	})
	t.Run("Decrypt of a plaintext", func(t *testing.T) {
		t.Parallel()
		sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage})
		if err != nil {
			t.Fatal(err)
		}
		opened, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, Recipient: to.info()})
		if err != nil || opened.Plaintext != nil || !bytes.Equal(to.open(t, opened.CiphertextForRecipient), aMessage) {
			t.Errorf("Decrypt: %v", err)
		}
	})
	t.Run("GenerateRandom", func(t *testing.T) {
		t.Parallel()
		made, err := a.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(33), Recipient: to.info()})
		if err != nil || made.Plaintext != nil || len(to.open(t, made.CiphertextForRecipient)) != 33 {
			t.Errorf("GenerateRandom: %v", err)
		}
	})
	t.Run("through the client library", func(t *testing.T) {
		t.Parallel()
		longDataKeys(t, a, id)
	})
	bad := func(document []byte, algorithm types.KeyEncryptionMechanism) *types.RecipientInfo {
		return &types.RecipientInfo{AttestationDocument: document, KeyEncryptionAlgorithm: algorithm}
	}
	for name, in := range map[string]struct {
		to   *types.RecipientInfo
		code string
	}{
		"nothing":      {&types.RecipientInfo{}, "ValidationException"},
		"nonsense":     {bad([]byte("nonsense"), "RSAES_OAEP_SHA_1"), "ValidationException"},
		"an EC key":    {bad(ecKey(t), "RSAES_OAEP_SHA_1"), "ValidationException"},
		"a small key":  {bad(smallKey(t), "RSAES_OAEP_SHA_1"), "ValidationException"},
		"a cut key":    {bad(to.public[:len(to.public)-1], "RSAES_OAEP_SHA_1"), "ValidationException"},
		"no root":      {bad([]byte{0x84, 0x43, 0xa1, 0x01, 0x38, 0x22}, ""), "ValidationException"},
		"no algorithm": {bad(to.public, "RSAES_OAEP_SHA_9"), "ValidationException"},
		// SoftHSM2 has no OAEP with SHA-256.
		"SHA-256": {bad(to.public, "RSAES_OAEP_SHA_256"), "UnsupportedOperationException"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: id, KeySpec: types.DataKeySpecAes256, Recipient: in.to})
			if testenv.Chosen() && err == nil && in.code == "UnsupportedOperationException" {
				return // the token has what SoftHSM2 has not
			}
			wantCode(in.code).check(t, err)
		})
	}
	t.Run("exponents", func(t *testing.T) {
		t.Parallel()
		refusedExponents(t, a, id, &to.private.PublicKey)
	})
}

// refusedExponents: an RSA key to which nothing can be encrypted is the mistake of
// who sends it, whatever the operation.
func refusedExponents(t *testing.T, a *api, id *string, good *rsa.PublicKey) {
	t.Helper()
	sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []int{1, 2, 3, 65536, 65538, 1 << 31, 1<<31 + 1, 1<<62 + 1} {
		der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: good.N, E: e})
		if err != nil {
			t.Fatal(err)
		}
		for _, algorithm := range []types.KeyEncryptionMechanism{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"} {
			to := &types.RecipientInfo{AttestationDocument: der, KeyEncryptionAlgorithm: algorithm}
			_, key := a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: id, KeySpec: types.DataKeySpecAes256, Recipient: to})
			_, random := a.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(8), Recipient: to})
			_, opened := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, Recipient: to})
			_, pair := a.GenerateDataKeyPair(t.Context(), &kms.GenerateDataKeyPairInput{KeyId: id, KeyPairSpec: "RSA_2048", Recipient: to})
			for operation, err := range map[string]error{"GenerateDataKey": key, "GenerateRandom": random, "Decrypt": opened, "GenerateDataKeyPair": pair} {
				if rig.Code(err) != "ValidationException" {
					t.Errorf("%s for a key with the exponent %d by %s: %v", operation, e, algorithm, err)
				}
			}
		}
	}
}

// longDataKeys: what is too long for OAEP comes under a key of its own, which
// the client library opens.
func longDataKeys(t *testing.T, a *api, id *string) {
	t.Helper()
	r, err := client.NewRecipient(2048)
	if err != nil {
		t.Fatal(err)
	}
	c := kms.NewFromConfig(client.Config(a.Socket), r.Attach)
	made, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: id, NumberOfBytes: aws.Int32(1024)})
	if err != nil || len(made.Plaintext) != 1024 {
		t.Fatalf("GenerateDataKey: %v", err)
	}
	opened, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob})
	if err != nil || !bytes.Equal(opened.Plaintext, made.Plaintext) {
		t.Errorf("Decrypt: %v", err)
	}
	for _, spec := range []types.DataKeyPairSpec{"RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1"} {
		pair, err := c.GenerateDataKeyPair(t.Context(), &kms.GenerateDataKeyPairInput{KeyId: id, KeyPairSpec: spec})
		if err != nil {
			t.Errorf("GenerateDataKeyPair %s: %v", spec, err)
			continue
		}
		expectPair(t, spec, pair.PrivateKeyPlaintext, pair.PublicKey)
		again, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: pair.PrivateKeyCiphertextBlob})
		if err != nil || !bytes.Equal(again.Plaintext, pair.PrivateKeyPlaintext) {
			t.Errorf("Decrypt of a private key of %s: %v", spec, err)
		}
	}
}

// expectPair checks a PKCS #8 private key against its public key, by openssl.
func expectPair(t *testing.T, spec types.DataKeyPairSpec, private, public []byte) {
	t.Helper()
	derived := runOpenSSL(t, private, "pkey", "-inform", "DER", "-pubout", "-outform", "DER")
	if derived != string(public) {
		t.Errorf("%s: the private key is of another public key", spec)
	}
}

func ecKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return publicDER(t, &key.PublicKey)
}

// smallKey is the public key of an RSA pair of 1024 bits, made once by openssl:
// Go's library makes none so small.
func smallKey(t *testing.T) []byte {
	t.Helper()
	private := runOpenSSL(t, nil, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-outform", "DER")
	return []byte(runOpenSSL(t, []byte(private), "pkey", "-inform", "DER", "-pubout", "-outform", "DER"))
}

func publicDER(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// testAgreement derives secrets and compares them with Go's; to a recipient
// they come as they do in the clear.
func testAgreement(t *testing.T, a *api) {
	for spec, curve := range map[types.KeySpec]ecdh.Curve{"ECC_NIST_P256": ecdh.P256(), "ECC_NIST_P384": ecdh.P384(), "ECC_NIST_P521": ecdh.P521()} {
		t.Run(string(spec), func(t *testing.T) {
			t.Parallel()
			id := a.key(t, spec, usageAgree)
			ours, err := a.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: id})
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := x509.ParsePKIXPublicKey(ours.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			public, err := parsed.(*ecdsa.PublicKey).ECDH()
			if err != nil {
				t.Fatal(err)
			}
			for range 4 { // leading zeros of a secret come about
				peer, err := curve.GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				secret, err := peer.ECDH(public)
				if err != nil {
					t.Fatal(err)
				}
				derive := func(to *types.RecipientInfo) (*kms.DeriveSharedSecretOutput, error) {
					return a.DeriveSharedSecret(t.Context(), &kms.DeriveSharedSecretInput{
						KeyId: id, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: publicDER(t, peer.PublicKey()), Recipient: to,
					})
				}
				out, err := derive(nil)
				if err != nil || !bytes.Equal(out.SharedSecret, secret) {
					t.Errorf("DeriveSharedSecret: %v, equal: false", err)
					continue
				}
				if aws.ToString(out.KeyId) != keyARN(id) || out.KeyOrigin != types.OriginTypeAwsKms || out.KeyAgreementAlgorithm != types.KeyAgreementAlgorithmSpecEcdh {
					t.Errorf("the answer is %+v", out)
				}
				sent, err := derive(toTests().info())
				if err != nil || sent.SharedSecret != nil || !bytes.Equal(toTests().open(t, sent.CiphertextForRecipient), secret) {
					t.Errorf("DeriveSharedSecret to a recipient: %v", err)
				}
			}
		})
	}
}

// testPlaintextDataKeys: with plaintext_data_keys data keys come as AWS KMS
// gives them.
func testPlaintextDataKeys(t *testing.T, a *api) {
	id := a.symmetric(t)
	context := map[string]string{"a": "b"}
	for _, n := range []int32{1, 7, 8, 16, 31, 32, 33, 64, 100, 1023, 1024} {
		made, err := a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: id, NumberOfBytes: &n, EncryptionContext: context})
		if err != nil || len(made.Plaintext) != int(n) || made.CiphertextForRecipient != nil {
			t.Errorf("%d bytes: %v", n, err)
			continue
		}
		out, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: context})
		if err != nil || !bytes.Equal(out.Plaintext, made.Plaintext) {
			t.Errorf("%d bytes: Decrypt: %v", n, err)
		}
		invalidCiphertext.check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob})))
		blind, err := a.GenerateDataKeyWithoutPlaintext(t.Context(), &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: id, NumberOfBytes: &n})
		if err != nil {
			t.Errorf("%d bytes: %v", n, err)
			continue
		}
		if out, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blind.CiphertextBlob}); err != nil || len(out.Plaintext) != int(n) {
			t.Errorf("%d bytes without plaintext: Decrypt: %v", n, err)
		}
	}
	for spec, n := range map[types.DataKeySpec]int{types.DataKeySpecAes128: 16, types.DataKeySpecAes256: 32} {
		if made, err := a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: id, KeySpec: spec}); err != nil || len(made.Plaintext) != n {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

// testPlaintextRecipients: where data keys may be seen, the plugin encrypts them
// for recipients that SoftHSM2 cannot wrap to.
func testPlaintextRecipients(t *testing.T, a *api) {
	to := rig.NewRecipient(t)
	info := &types.RecipientInfo{AttestationDocument: to.Public, KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256}
	made, err := a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: a.symmetric(t), KeySpec: types.DataKeySpecAes256, Recipient: info})
	if err != nil || made.Plaintext != nil {
		t.Fatalf("GenerateDataKey: %v", err)
	}
	got, err := rsa.DecryptOAEP(sha256.New(), nil, to.Private, made.CiphertextForRecipient, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob})
	if err != nil || !bytes.Equal(got, out.Plaintext) {
		t.Errorf("the recipient gets another data key: %v", err)
	}
}

// testPlaintextPairs: pairs of every spec, as PKCS #8 and SubjectPublicKeyInfo.
func testPlaintextPairs(t *testing.T, a *api) {
	id := a.symmetric(t)
	for _, spec := range types.DataKeyPairSpec("").Values() {
		t.Run(string(spec), func(t *testing.T) {
			t.Parallel()
			made, err := a.GenerateDataKeyPair(t.Context(), &kms.GenerateDataKeyPairInput{KeyId: id, KeyPairSpec: spec})
			if spec == types.DataKeyPairSpecSm2 || bytes.HasPrefix([]byte(spec), []byte("ML_KEM")) {
				want{"UnsupportedOperationException", fmt.Sprintf("KeyPairSpec %s is not supported.", spec)}.check(t, err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			expectPair(t, spec, made.PrivateKeyPlaintext, made.PublicKey)
			out, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.PrivateKeyCiphertextBlob})
			if err != nil || !bytes.Equal(out.Plaintext, made.PrivateKeyPlaintext) {
				t.Errorf("Decrypt: %v", err)
			}
			blind, err := a.GenerateDataKeyPairWithoutPlaintext(t.Context(), &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: id, KeyPairSpec: spec})
			if spec == types.DataKeyPairSpecEccNistEdwards25519 { // SoftHSM2 does not wrap such keys
				wantCode("UnsupportedOperationException").check(t, err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			out, err = a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blind.PrivateKeyCiphertextBlob})
			if err != nil {
				t.Fatal(err)
			}
			expectPair(t, spec, out.Plaintext, blind.PublicKey)
		})
	}
}

// testPlaintextReEncrypt: a data key may go to an RSA key where it may be seen.
func testPlaintextReEncrypt(t *testing.T, a *api) {
	rsaKey := a.key(t, types.KeySpecRsa2048, usageEncrypt)
	made, err := a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: a.symmetric(t), KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	moved, err := a.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: made.CiphertextBlob, DestinationKeyId: rsaKey, DestinationEncryptionAlgorithm: oaep1})
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.Decrypt(t.Context(), &kms.DecryptInput{KeyId: rsaKey, EncryptionAlgorithm: oaep1, CiphertextBlob: moved.CiphertextBlob})
	if err != nil || !bytes.Equal(out.Plaintext, made.Plaintext) {
		t.Errorf("the data key changed on its way to RSA: %v", err)
	}

	// A key that forbids data keys in the clear forbids that way out too.
	policy := strings.Replace(accountPolicy, `"Resource":"*"}`, `"Resource":"*"},{"Effect":"Deny","Principal":"*","Resource":"*",`+
		`"Action":["kms:GenerateDataKey*","kms:Decrypt","kms:ReEncryptFrom"],"Condition":{"Bool":{"cmkd:PlaintextDataKey":"true"}}}`, 1)
	id := a.fresh(t, &kms.CreateKeyInput{Policy: &policy})
	wrapped, err := a.GenerateDataKeyWithoutPlaintext(t.Context(), &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: id, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	forbidden := want{"AccessDeniedException", anyMessage}
	forbidden.check(t, rig.ErrOf(a.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: id, KeySpec: types.DataKeySpecAes256})))
	forbidden.check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: wrapped.CiphertextBlob})))
	toRSA := &kms.ReEncryptInput{CiphertextBlob: wrapped.CiphertextBlob, DestinationKeyId: rsaKey, DestinationEncryptionAlgorithm: oaep1}
	forbidden.check(t, rig.ErrOf(a.ReEncrypt(t.Context(), toRSA)))
	wantOK().check(t, rig.ErrOf(a.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: wrapped.CiphertextBlob, DestinationKeyId: id})))
}

// testRandom: lengths, and that two answers differ.
func testRandom(t *testing.T, a *api) {
	seen := map[string]bool{}
	for _, n := range []int32{1, 12, 32, 1024} {
		out, err := a.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: &n})
		if err != nil || len(out.Plaintext) != int(n) || seen[string(out.Plaintext)] {
			t.Errorf("%d bytes: %v", n, err)
			continue
		}
		seen[string(out.Plaintext)] = true
	}
	from := func(id string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(16), CustomKeyStoreId: &id}))
		}
	}
	putStore := func(id string, state keys.ConnectionState) func(context.Context) error {
		return func(ctx context.Context) error {
			return a.Daemon.Store().Update(ctx, func(tx *store.Tx) error {
				return tx.PutCustomKeyStore(&store.CustomKeyStore{Region: rig.Region, ID: id, Name: id, Token: "main", ConnectionState: state})
			})
		}
	}
	runCalls(t, []call{
		{"put a custom key store there", putStore("cks-random", "DISCONNECTED"), wantOK()},
		{"from a store that is disconnected", from("cks-random"), wantCode("CustomKeyStoreInvalidStateException")},
		{"connect it", putStore("cks-random", "CONNECTED"), wantOK()},
		{"from a store", from("cks-random"), wantOK()},
		{"custom key store", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(1), CustomKeyStoreId: aws.String("cks-none")}))
		}, wantCode("CustomKeyStoreNotFoundException")},
	})
}
