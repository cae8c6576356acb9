package api

import (
	"context"
	"crypto"
	"crypto/sha256"
	_ "crypto/sha512" // for signingHashes
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

const (
	usageEncrypt     = types.KeyUsageTypeEncryptDecrypt
	usageSign        = types.KeyUsageTypeSignVerify
	usageMAC         = types.KeyUsageTypeGenerateVerifyMac
	usageAgree       = types.KeyUsageTypeKeyAgreement
	usageEncapsulate = types.KeyUsageType("ENCAPSULATE_DECAPSULATE")
)

// specUsages are the usages of each key spec, as AWS's page on key specs has
// them, and the algorithms in the order of KeyMetadata.
var specUsages = map[types.KeySpec]map[types.KeyUsageType]string{
	"SYMMETRIC_DEFAULT":     {usageEncrypt: "SYMMETRIC_DEFAULT"},
	"RSA_2048":              rsaUsages,
	"RSA_3072":              rsaUsages,
	"RSA_4096":              rsaUsages,
	"ECC_NIST_P256":         {usageSign: "ECDSA_SHA_256", usageAgree: "ECDH"},
	"ECC_NIST_P384":         {usageSign: "ECDSA_SHA_384", usageAgree: "ECDH"},
	"ECC_NIST_P521":         {usageSign: "ECDSA_SHA_512", usageAgree: "ECDH"},
	"ECC_SECG_P256K1":       {usageSign: "ECDSA_SHA_256"},
	"ECC_NIST_EDWARDS25519": {usageSign: "ED25519_SHA_512 ED25519_PH_SHA_512"},
	"HMAC_224":              {usageMAC: "HMAC_SHA_224"},
	"HMAC_256":              {usageMAC: "HMAC_SHA_256"},
	"HMAC_384":              {usageMAC: "HMAC_SHA_384"},
	"HMAC_512":              {usageMAC: "HMAC_SHA_512"},
}

var rsaUsages = map[types.KeyUsageType]string{
	usageEncrypt: "RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256",
	usageSign: "RSASSA_PKCS1_V1_5_SHA_256 RSASSA_PKCS1_V1_5_SHA_384 RSASSA_PKCS1_V1_5_SHA_512 " +
		"RSASSA_PSS_SHA_256 RSASSA_PSS_SHA_384 RSASSA_PSS_SHA_512",
}

// missingSpecs are usages whose keys SoftHSM2 cannot hold, or that no Region
// outside of China has.
var missingSpecs = map[types.KeySpec]types.KeyUsageType{
	"ML_DSA_44": usageSign, "ML_DSA_65": usageSign, "ML_DSA_87": usageSign,
	"ML_KEM_512": usageEncapsulate, "ML_KEM_768": usageEncapsulate, "ML_KEM_1024": usageEncapsulate,
}

// testSpecs tries CreateKey with every key spec and every usage.
func testSpecs(t *testing.T, a *api) {
	for _, spec := range types.KeySpec("").Values() {
		for _, usage := range types.KeyUsageType("").Values() {
			t.Run(fmt.Sprintf("%s %s", spec, usage), func(t *testing.T) {
				t.Parallel()
				if algorithms, ok := specUsages[spec][usage]; ok {
					expectKey(t, a, spec, usage, strings.Fields(algorithms))
					return
				}
				err := rig.ErrOf(a.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage}))
				switch {
				case testenv.Chosen() && err == nil && missingSpecs[spec] == usage: // it can hold what SoftHSM2 cannot
				case spec == types.KeySpecSm2, missingSpecs[spec] == usage:
					want{"UnsupportedOperationException", anyMessage}.check(t, err)
					if !strings.HasPrefix(rig.Message(err), fmt.Sprintf("KeySpec %s is not supported", spec)) {
						t.Errorf("the refusal says %q", rig.Message(err))
					}
				default:
					validation(fmt.Sprintf("KeyUsage %s is not compatible with KeySpec %s", usage, spec)).check(t, err)
				}
			})
		}
	}
}

// expectKey compares the metadata and the public key of a key.
func expectKey(t *testing.T, a *api, spec types.KeySpec, usage types.KeyUsageType, algorithms []string) {
	t.Helper()
	id := a.key(t, spec, usage)
	out, err := a.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: id})
	if err != nil {
		t.Fatal(err)
	}
	m := out.KeyMetadata
	got := slices.Concat(texts(m.EncryptionAlgorithms), texts(m.SigningAlgorithms), texts(m.MacAlgorithms), texts(m.KeyAgreementAlgorithms))
	if m.KeySpec != spec || m.KeyUsage != usage || !slices.Equal(got, algorithms) || m.KeyState != types.KeyStateEnabled {
		t.Errorf("the key is %s %s %s with %v, want %v", m.KeySpec, m.KeyUsage, m.KeyState, got, algorithms)
	}
	if (m.CurrentKeyMaterialId != nil) != (spec == types.KeySpecSymmetricDefault) {
		t.Errorf("CurrentKeyMaterialId is %v", m.CurrentKeyMaterialId)
	}
	public, err := a.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: id})
	if spec == types.KeySpecSymmetricDefault || usage == usageMAC {
		want{"UnsupportedOperationException", ""}.check(t, err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	shown := slices.Concat(texts(public.EncryptionAlgorithms), texts(public.SigningAlgorithms), texts(public.KeyAgreementAlgorithms))
	if public.KeySpec != spec || public.KeyUsage != usage || !slices.Equal(shown, algorithms) {
		t.Errorf("GetPublicKey answers %s %s %v", public.KeySpec, public.KeyUsage, shown)
	}
	if text := runOpenSSL(t, public.PublicKey, "pkey", "-pubin", "-inform", "DER", "-noout", "-text"); !strings.Contains(text, opensslNames[spec]) {
		t.Errorf("openssl reads the public key as %s, want %q", text, opensslNames[spec])
	}
}

// opensslNames is what `openssl pkey -text` says of a public key.
var opensslNames = map[types.KeySpec]string{
	"RSA_2048": "(2048 bit)", "RSA_3072": "(3072 bit)", "RSA_4096": "(4096 bit)",
	"ECC_NIST_P256": "prime256v1", "ECC_NIST_P384": "secp384r1", "ECC_NIST_P521": "secp521r1",
	"ECC_SECG_P256K1": "secp256k1", "ECC_NIST_EDWARDS25519": "ED25519",
}

func texts[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

// testSigning tries every signing key with every algorithm and message type.
func testSigning(t *testing.T, a *api) {
	for spec, usages := range specUsages {
		algorithms, ok := usages[usageSign]
		if !ok {
			continue
		}
		for _, algorithm := range types.SigningAlgorithmSpec("").Values() {
			t.Run(fmt.Sprintf("%s %s", spec, algorithm), func(t *testing.T) {
				t.Parallel()
				id := a.key(t, spec, usageSign)
				for _, kind := range types.MessageType("").Values() {
					t.Run(string(kind), func(t *testing.T) {
						if !slices.Contains(strings.Fields(algorithms), string(algorithm)) {
							expectIncompatible(t, a, id, spec, algorithm, kind)
							return
						}
						trySigning(t, a, spec, algorithm, kind)
					})
				}
			})
		}
	}
}

func expectIncompatible(t *testing.T, a *api, id *string, spec types.KeySpec, algorithm types.SigningAlgorithmSpec, kind types.MessageType) {
	t.Helper()
	refused := want{"InvalidKeyUsageException", fmt.Sprintf("Algorithm %s is incompatible with key spec %s.", algorithm, spec)}
	message := sha256.Sum256(nil)
	refused.check(t, rig.ErrOf(a.Sign(t.Context(), &kms.SignInput{KeyId: id, Message: message[:], MessageType: kind, SigningAlgorithm: algorithm})))
	refused.check(t, rig.ErrOf(a.Verify(t.Context(), &kms.VerifyInput{KeyId: id, Message: message[:], MessageType: kind, SigningAlgorithm: algorithm, Signature: message[:]})))
}

// trySigning signs, verifies here and there, and tries the lengths of messages.
func trySigning(t *testing.T, a *api, spec types.KeySpec, algorithm types.SigningAlgorithmSpec, kind types.MessageType) {
	t.Helper()
	id, name := a.key(t, spec, usageSign), string(algorithm)
	sign := func(message []byte) ([]byte, error) {
		out, err := a.Sign(t.Context(), &kms.SignInput{KeyId: id, Message: message, MessageType: kind, SigningAlgorithm: algorithm})
		if err != nil {
			return nil, err
		}
		return out.Signature, nil
	}
	verify := func(message, signature []byte) error {
		out, err := a.Verify(t.Context(), &kms.VerifyInput{KeyId: id, Message: message, MessageType: kind, SigningAlgorithm: algorithm, Signature: signature})
		if err == nil && !out.SignatureValid {
			return fmt.Errorf("SignatureValid is false")
		}
		return err
	}
	message := []byte("a message to sign")
	sent := message
	switch {
	case kind == types.MessageType("EXTERNAL_MU"),
		name == "ED25519_SHA_512" && kind != types.MessageTypeRaw,
		name == "ED25519_PH_SHA_512" && kind != types.MessageTypeDigest:
		with := "algorithm " + name
		if kind == types.MessageType("EXTERNAL_MU") {
			with = "key spec " + string(spec)
		}
		refused := validation(fmt.Sprintf("Message type %s is incompatible with %s.", kind, with))
		long := make([]byte, 64)
		refused.check(t, rig.ErrOf(sign(long)))
		refused.check(t, verify(long, long))
		return
	case name == "ED25519_PH_SHA_512":
		// SoftHSM2 has no Ed25519ph: it is refused, and verified all the same.
		sent = digest(crypto.SHA512, message)
		err := rig.ErrOf(sign(sent))
		want{"UnsupportedOperationException", anyMessage}.check(t, err)
		want{"KMSInvalidSignatureException", ""}.check(t, verify(sent, make([]byte, 64)))
		return
	case kind == types.MessageTypeDigest:
		sent = digest(hashOf(name), message)
		short := validation(fmt.Sprintf("Digest is invalid length for algorithm %s.", name))
		short.check(t, rig.ErrOf(sign(sent[1:])))
		short.check(t, rig.ErrOf(sign(append([]byte{0}, sent...))))
		short.check(t, verify(sent[1:], sent))
	}
	signature, err := sign(sent)
	if err != nil {
		t.Fatal(err)
	}
	wantOK().check(t, verify(sent, signature))
	invalid := want{"KMSInvalidSignatureException", ""}
	other := append([]byte{sent[0] ^ 1}, sent[1:]...)
	invalid.check(t, verify(other, signature))
	public, err := a.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: id})
	if err != nil {
		t.Fatal(err)
	}
	if spec == types.KeySpecEccSecgP256k1 {
		// Go's library does not have the curve: openssl verifies it.
	} else if err := verifyHere(public.PublicKey, name, message, signature); err != nil {
		t.Errorf("Go's library does not accept the signature: %v", err)
	}
	verifyOpenSSL(t, public.PublicKey, name, message, signature)
	if kind == types.MessageTypeRaw {
		long := make([]byte, 4096)
		signature, err := sign(long)
		wantOK().check(t, err)
		wantOK().check(t, verify(long, signature))
		if name != "ED25519_SHA_512" {
			// The same bytes as message and as digest are two things.
			raw := digest(hashOf(name), message)
			signature, err := sign(raw)
			wantOK().check(t, err)
			_, err = a.Verify(t.Context(), &kms.VerifyInput{KeyId: id, Message: raw, MessageType: types.MessageTypeDigest, SigningAlgorithm: algorithm, Signature: signature})
			invalid.check(t, err)
		}
	}
}

// testMACs tries every HMAC key with every algorithm. That the MAC is HMAC is
// shown with an imported key in testImportedMAC.
func testMACs(t *testing.T, a *api) {
	lengths := map[string]int{"HMAC_SHA_224": 28, "HMAC_SHA_256": 32, "HMAC_SHA_384": 48, "HMAC_SHA_512": 64}
	for spec, usages := range specUsages {
		own, ok := usages[usageMAC]
		if !ok {
			continue
		}
		for _, algorithm := range types.MacAlgorithmSpec("").Values() {
			t.Run(fmt.Sprintf("%s %s", spec, algorithm), func(t *testing.T) {
				t.Parallel()
				id := a.key(t, spec, usageMAC)
				made, err := a.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: id, MacAlgorithm: algorithm, Message: aMessage})
				if own != string(algorithm) {
					refused := want{"InvalidKeyUsageException", fmt.Sprintf("Algorithm %s is incompatible with key spec %s.", algorithm, spec)}
					refused.check(t, err)
					refused.check(t, rig.ErrOf(a.VerifyMac(t.Context(), &kms.VerifyMacInput{KeyId: id, MacAlgorithm: algorithm, Message: aMessage, Mac: aMessage})))
					return
				}
				if err != nil || len(made.Mac) != lengths[own] {
					t.Fatalf("GenerateMac: %v", err)
				}
				verify := func(message, mac []byte) error {
					return rig.ErrOf(a.VerifyMac(t.Context(), &kms.VerifyMacInput{KeyId: id, MacAlgorithm: algorithm, Message: message, Mac: mac}))
				}
				invalid := want{"KMSInvalidMacException", ""}
				wantOK().check(t, verify(aMessage, made.Mac))
				invalid.check(t, verify([]byte("b message"), made.Mac))
				invalid.check(t, verify(aMessage, made.Mac[:len(made.Mac)-1]))
				invalid.check(t, verify(aMessage, append(slices.Clone(made.Mac), 0)))
				for i := range made.Mac {
					altered := slices.Clone(made.Mac)
					altered[i] ^= 0x80
					invalid.check(t, verify(aMessage, altered))
				}
			})
		}
	}
}

// testWrongUsage: a key is asked for what it is not for.
func testWrongUsage(t *testing.T, a *api) {
	symmetric, signing, mac := a.symmetric(t), a.signing(t), a.authenticating(t)
	agreeing := a.key(t, types.KeySpecEccNistP256, usageAgree)
	wrong := func(id *string, usage, operation string) want {
		return want{"InvalidKeyUsageException", fmt.Sprintf("%s key usage is %s which is not valid for %s.", keyARN(id), usage, operation)}
	}
	dk := types.DataKeySpecAes256
	sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: symmetric, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	runCalls(t, []call{
		{"Encrypt", func(ctx context.Context) error {
			return rig.ErrOf(a.Encrypt(ctx, &kms.EncryptInput{KeyId: signing, Plaintext: aMessage}))
		}, wrong(signing, "SIGN_VERIFY", "Encrypt")},
		{"Sign", func(ctx context.Context) error {
			return rig.ErrOf(a.Sign(ctx, &kms.SignInput{KeyId: mac, Message: aMessage, SigningAlgorithm: ecdsa256}))
		}, wrong(mac, "GENERATE_VERIFY_MAC", "Sign")},
		{"Verify", func(ctx context.Context) error {
			return rig.ErrOf(a.Verify(ctx, &kms.VerifyInput{KeyId: symmetric, Message: aMessage, Signature: aMessage, SigningAlgorithm: ecdsa256}))
		}, wrong(symmetric, "ENCRYPT_DECRYPT", "Verify")},
		{"Sign with a key for agreement", func(ctx context.Context) error {
			return rig.ErrOf(a.Sign(ctx, &kms.SignInput{KeyId: agreeing, Message: aMessage, SigningAlgorithm: ecdsa256}))
		}, wrong(agreeing, "KEY_AGREEMENT", "Sign")},
		{"GenerateMac", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: symmetric, Message: aMessage, MacAlgorithm: hmac256}))
		}, wrong(symmetric, "ENCRYPT_DECRYPT", "GenerateMac")},
		{"VerifyMac", func(ctx context.Context) error {
			return rig.ErrOf(a.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: signing, Message: aMessage, Mac: aMessage, MacAlgorithm: hmac256}))
		}, wrong(signing, "SIGN_VERIFY", "VerifyMac")},
		{"GenerateDataKeyWithoutPlaintext", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: signing, KeySpec: dk}))
		}, wrong(signing, "SIGN_VERIFY", "GenerateDataKeyWithoutPlaintext")},
		{"GenerateDataKeyWithoutPlaintext by RSA", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: a.key(t, types.KeySpecRsa2048, usageEncrypt), KeySpec: dk}))
		}, want{"InvalidKeyUsageException", "You cannot generate a data key with an asymmetric CMK"}},
		{"GenerateDataKeyPairWithoutPlaintext by RSA", func(ctx context.Context) error {
			return rig.ErrOf(a.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: a.key(t, types.KeySpecRsa2048, usageEncrypt), KeyPairSpec: p256Pair}))
		}, want{"InvalidKeyUsageException", "You cannot generate a data key with an asymmetric CMK"}},
		{"DeriveSharedSecret", func(ctx context.Context) error {
			return rig.ErrOf(a.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: signing, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: aMessage}))
		}, wrong(signing, "SIGN_VERIFY", "DeriveSharedSecret")},
		{"Encapsulate", func(ctx context.Context) error {
			status, out := a.wire(t, "Encapsulate", fields{"KeyId": *signing, "EncapsulationAlgorithm": "ML_KEM"})
			if status != 400 || out["__type"] != "InvalidKeyUsageException" {
				return fmt.Errorf("got %d %v", status, out)
			}
			return nil
		}, wantOK()},
		{"Decrypt", func(ctx context.Context) error {
			return rig.ErrOf(a.Decrypt(ctx, &kms.DecryptInput{KeyId: mac, CiphertextBlob: sealed.CiphertextBlob}))
		}, incorrectKey},
		{"ReEncrypt from", func(ctx context.Context) error {
			return rig.ErrOf(a.ReEncrypt(ctx, &kms.ReEncryptInput{SourceKeyId: mac, CiphertextBlob: sealed.CiphertextBlob, DestinationKeyId: mac}))
		}, incorrectKey},
	})
	t.Run("of a disabled key", func(t *testing.T) {
		disabled := a.fresh(t, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: usageSign})
		if _, err := a.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: disabled}); err != nil {
			t.Fatal(err)
		}
		// AWS checks the usage, then the state, then the algorithm.
		wrong(disabled, "SIGN_VERIFY", "GenerateMac").check(t,
			rig.ErrOf(a.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: disabled, Message: aMessage, MacAlgorithm: hmac256})))
		want{"DisabledException", keyARN(disabled) + " is disabled."}.check(t,
			rig.ErrOf(a.Sign(t.Context(), &kms.SignInput{KeyId: disabled, Message: aMessage, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha384})))
	})
}

var incorrectKey = want{"IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation."}
