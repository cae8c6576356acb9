package api

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// testAlteredBlobs: a blob with any bit changed, cut anywhere, or longer, is
// no ciphertext, whatever it holds and however its key is named.
func testAlteredBlobs(t *testing.T, a *api) {
	id := a.symmetric(t)
	sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: []byte("p")})
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := a.GenerateDataKeyWithoutPlaintext(t.Context(), &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: id, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	for name, blob := range map[string][]byte{"plaintext": sealed.CiphertextBlob, "data key": wrapped.CiphertextBlob} {
		decrypt := func(key *string, altered []byte) error {
			return rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{KeyId: key, CiphertextBlob: altered, Recipient: toTests().info()}))
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantOK().check(t, decrypt(nil, blob))
			for i := range blob {
				altered := slices.Clone(blob)
				altered[i] ^= 1 << (i % 8)
				invalidCiphertext.check(t, decrypt(nil, altered))
				invalidCiphertext.check(t, decrypt(id, altered))
				if i == 0 {
					continue
				}
				invalidCiphertext.check(t, decrypt(nil, blob[:i]))
			}
			for _, more := range [][]byte{{0}, {0xff}, make([]byte, 16), blob} {
				invalidCiphertext.check(t, decrypt(nil, slices.Concat(blob, more)))
				invalidCiphertext.check(t, decrypt(nil, slices.Concat(more, blob)))
			}
		})
	}
	t.Run("a data key that says it is a plaintext", func(t *testing.T) {
		t.Parallel()
		for kind := range byte(5) {
			altered := slices.Clone(wrapped.CiphertextBlob)
			if altered[1] == kind {
				continue
			}
			altered[1] = kind
			invalidCiphertext.check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: altered})))
		}
		wantCode("AccessDeniedException").check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: wrapped.CiphertextBlob})))
	})
	t.Run("a plaintext that says it is a data key", func(t *testing.T) {
		t.Parallel()
		rsa := a.key(t, types.KeySpecRsa2048, usageEncrypt)
		for kind := byte(2); kind < 4; kind++ {
			altered := slices.Clone(sealed.CiphertextBlob)
			altered[1] = kind
			invalidCiphertext.check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: altered})))
			invalidCiphertext.check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: altered, KeyId: id})))
			invalidCiphertext.check(t, rig.ErrOf(a.ReEncrypt(t.Context(), &kms.ReEncryptInput{
				CiphertextBlob: altered, DestinationKeyId: rsa, DestinationEncryptionAlgorithm: oaep256,
			})))
		}
	})
	t.Run("under a policy about data keys", func(t *testing.T) {
		t.Parallel()
		key := a.fresh(t, &kms.CreateKeyInput{Policy: aws.String(strings.Replace(accountPolicy, `"Statement":[`, `"Statement":[{"Effect":"Deny","Principal":"*",`+
			`"Action":"kms:Decrypt","Resource":"*","Condition":{"Bool":{"cmkd:PlaintextDataKey":"true"}}},`, 1))})
		plain, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: key, Plaintext: []byte("p")})
		if err != nil {
			t.Fatal(err)
		}
		data, err := a.GenerateDataKeyWithoutPlaintext(t.Context(), &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: key, KeySpec: types.DataKeySpecAes256})
		if err != nil {
			t.Fatal(err)
		}
		wantOK().check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: plain.CiphertextBlob})))
		denied := rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: data.CiphertextBlob}))
		if rig.Code(denied) != "AccessDeniedException" || !strings.Contains(rig.Message(denied), "explicit deny") {
			t.Errorf("a data key: %v", denied)
		}
		for _, blob := range [][]byte{plain.CiphertextBlob, data.CiphertextBlob} {
			for _, at := range []int{1, 2, 3, 18, 19, 50, 52, len(blob) - 1} { // kind, form and both ends of the key ID, material ID, IV, tag
				altered := slices.Clone(blob)
				altered[at] ^= 1
				if at == 1 {
					altered[at] = 3
				}
				invalidCiphertext.check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: altered})))
				invalidCiphertext.check(t, rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: altered, KeyId: key})))
			}
		}
	})
	t.Run("elsewhere", func(t *testing.T) {
		t.Parallel()
		wantHidden("Decrypt").check(t, rig.ErrOf(a.other.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})))
		wantHidden("Decrypt").check(t, rig.ErrOf(a.other.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: wrapped.CiphertextBlob, Recipient: toTests().info()})))
		there, err := a.other.CreateKey(t.Context(), &kms.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		wantHidden("ReEncryptFrom").check(t, rig.ErrOf(a.other.ReEncrypt(t.Context(), &kms.ReEncryptInput{
			CiphertextBlob: sealed.CiphertextBlob, DestinationKeyId: there.KeyMetadata.KeyId,
		})))
		invalidCiphertext.check(t, rig.ErrOf(a.other.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: []byte("not a ciphertext")})))
	})
	t.Run("ReEncrypt", func(t *testing.T) {
		t.Parallel()
		for i := range sealed.CiphertextBlob {
			altered := slices.Clone(sealed.CiphertextBlob)
			altered[i] ^= 0x10
			invalidCiphertext.check(t, rig.ErrOf(a.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: altered, DestinationKeyId: id})))
			invalidCiphertext.check(t, rig.ErrOf(a.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: altered, SourceKeyId: id, DestinationKeyId: id})))
		}
	})
}

// wantHidden is the answer, to whoever asks, if the key of a ciphertext is not in
// the Region.
func wantHidden(action string) want {
	return wantError("AccessDeniedException", "User: "+accountRoot+" is not authorized to perform: kms:"+action+" on the resource associated with this "+
		"ciphertext because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access")
}

// testAlteredOAEP: RSA ciphertexts of every wrong length and form.
func testAlteredOAEP(t *testing.T, a *api) {
	id := a.key(t, types.KeySpecRsa2048, usageEncrypt)
	public, err := a.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: id})
	if err != nil {
		t.Fatal(err)
	}
	for _, algorithm := range []types.EncryptionAlgorithmSpec{oaep1, oaep256} {
		sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage, EncryptionAlgorithm: algorithm})
		if err != nil {
			t.Fatal(err)
		}
		blob := sealed.CiphertextBlob
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			malformed := [][]byte{
				{0},
				{1},
				blob[:255], blob[1:], append(slices.Clone(blob), 0), append([]byte{0}, blob...), make([]byte, 256),
				append(make([]byte, 255), 1), bytes.Repeat([]byte{0xff}, 256), make([]byte, 512), make([]byte, 6144), modulus(t, public.PublicKey),
			}
			for i := range blob {
				altered := slices.Clone(blob)
				altered[i] ^= 1 << (i % 8)
				malformed = append(malformed, altered)
			}
			for _, m := range malformed {
				err := rig.ErrOf(a.Decrypt(t.Context(), &kms.DecryptInput{KeyId: id, CiphertextBlob: m, EncryptionAlgorithm: algorithm}))
				if rig.Code(err) != "InvalidCiphertextException" || rig.Message(err) != "" {
					t.Errorf("%d bytes %.8x: %v", len(m), m, err)
				}
			}
		})
	}
}

// modulus is that of a DER RSA public key.
func modulus(t *testing.T, der []byte) []byte {
	t.Helper()
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	n, ok := key.(interface{ Size() int })
	if !ok {
		t.Fatalf("a key of type %T", key)
	}
	text := runOpenSSL(t, der, "rsa", "-pubin", "-inform", "DER", "-noout", "-modulus")
	v, ok := new(big.Int).SetString(strings.TrimSpace(strings.TrimPrefix(text, "Modulus=")), 16)
	if !ok {
		t.Fatalf("openssl says %s", text)
	}
	return v.FillBytes(make([]byte, n.Size()))
}

// der makes the DER form of an ECDSA signature.
func der(t *testing.T, r, s *big.Int) []byte {
	t.Helper()
	out, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// testSignatureForms: signatures that are not what was signed, in every form.
func testSignatureForms(t *testing.T, a *api) {
	for spec, order := range map[types.KeySpec]*big.Int{
		"ECC_NIST_P256": elliptic.P256().Params().N, "ECC_NIST_P384": elliptic.P384().Params().N,
		"ECC_NIST_P521": elliptic.P521().Params().N, "ECC_SECG_P256K1": secp256k1Order(),
	} {
		t.Run(string(spec), func(t *testing.T) {
			t.Parallel()
			algorithm := types.SigningAlgorithmSpec(specUsages[spec][usageSign])
			sig := signed(t, a, spec, algorithm)
			var v struct{ R, S *big.Int }
			if _, err := asn1.Unmarshal(sig, &v); err != nil {
				t.Fatalf("the signature is no DER: %v", err)
			}
			zero, one := new(big.Int), big.NewInt(1)
			add := func(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }
			forms := map[string][]byte{
				"r = 0": der(t, zero, v.S), "s = 0": der(t, v.R, zero), "both 0": der(t, zero, zero), "both 1": der(t, one, one),
				"r = order": der(t, order, v.S), "s = order": der(t, v.R, order), "r + order": der(t, add(v.R, order), v.S), "s + order": der(t, v.R, add(v.S, order)),
				"-r": der(t, new(big.Int).Neg(v.R), v.S), "-s": der(t, v.R, new(big.Int).Neg(v.S)), "swapped": der(t, v.S, v.R),
				"huge": der(t, new(big.Int).Lsh(one, 4096), v.S), "raw": slices.Concat(v.R.Bytes(), v.S.Bytes()),
				"trailing byte": append(slices.Clone(sig), 0), "leading byte": append([]byte{0}, sig...),
				"indefinite length": slices.Concat([]byte{0x30, 0x80}, sig[2:], []byte{0, 0}),
				"long form":         slices.Concat([]byte{0x30, 0x82, 0}, sig[1:]),
				"set":               append([]byte{0x31}, sig[1:]...), "empty sequence": {0x30, 0}, "null": {5, 0},
				"three numbers": append([]byte{0x30, sig[1] + 3}, append(slices.Clone(sig[2:]), 2, 1, 1)...),
				"zeros":         make([]byte, len(sig)), "longest": bytes.Repeat([]byte{0x30}, 6144),
			}
			refuse(t, a, spec, algorithm, sig, forms)
		})
	}
	for spec, algorithms := range map[types.KeySpec][]types.SigningAlgorithmSpec{
		"RSA_2048": {"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_512"}, "ECC_NIST_EDWARDS25519": {"ED25519_SHA_512"},
	} {
		for _, algorithm := range algorithms {
			t.Run(string(algorithm), func(t *testing.T) {
				t.Parallel()
				sig := signed(t, a, spec, algorithm)
				refuse(t, a, spec, algorithm, sig, map[string][]byte{
					"trailing byte": append(slices.Clone(sig), 0), "leading byte": append([]byte{0}, sig...), "zeros": make([]byte, len(sig)),
					"ones": bytes.Repeat([]byte{0xff}, len(sig)), "one": append(make([]byte, len(sig)-1), 1), "one byte": {1},
					"twice": slices.Concat(sig, sig), "longest": make([]byte, 6144),
				})
			})
		}
	}
}

func secp256k1Order() *big.Int {
	n, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16) // SEC 2, section 2.4.1
	return n
}

func signed(t *testing.T, a *api, spec types.KeySpec, algorithm types.SigningAlgorithmSpec) []byte {
	t.Helper()
	out, err := a.Sign(t.Context(), &kms.SignInput{KeyId: a.key(t, spec, usageSign), Message: aMessage, SigningAlgorithm: algorithm})
	if err != nil {
		t.Fatal(err)
	}
	return out.Signature
}

// refuse expects KMSInvalidSignatureException for each form, and for the good
// signature cut or altered anywhere.
func refuse(t *testing.T, a *api, spec types.KeySpec, algorithm types.SigningAlgorithmSpec, good []byte, forms map[string][]byte) {
	t.Helper()
	id := a.key(t, spec, usageSign)
	for i := range good {
		if i > 0 {
			forms[fmt.Sprintf("first %d bytes", i)] = good[:i]
		}
		altered := slices.Clone(good)
		altered[i] ^= 1
		forms[fmt.Sprintf("byte %d altered", i)] = altered
	}
	for name, form := range forms {
		_, err := a.Verify(t.Context(), &kms.VerifyInput{KeyId: id, Message: aMessage, SigningAlgorithm: algorithm, Signature: form})
		if rig.Code(err) != "KMSInvalidSignatureException" || rig.Message(err) != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// testPeerForms: public keys that are none of the key's curve.
func testPeerForms(t *testing.T, a *api) {
	id := a.key(t, types.KeySpecEccNistP256, usageAgree)
	good := ecKey(t)
	point := good[len(good)-65:]
	header := good[:len(good)-65]
	onOther, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	off := slices.Clone(good)
	off[len(off)-1] ^= 1
	field := elliptic.P256().Params().P.FillBytes(make([]byte, 32))
	withPoint := func(p []byte) []byte { return slices.Concat(header, p) }
	forms := map[string][]byte{
		"off the curve": off, "P-384": publicDER(t, &onOther.PublicKey), "Ed25519": publicDER(t, edwards), "RSA": toTests().public,
		"origin": withPoint(append([]byte{4}, make([]byte, 64)...)), "x = p": withPoint(slices.Concat([]byte{4}, field, point[33:])),
		"y = p": withPoint(slices.Concat(point[:33], field)), "compact form": withPoint(append([]byte{5}, point[1:]...)),
		"hybrid form": withPoint(append([]byte{6}, point[1:]...)), "infinity": infinity(t), "bare point": point,
		"trailing byte": append(slices.Clone(good), 0), "leading byte": append([]byte{0}, good...),
		"zeros": make([]byte, 91), "longest": bytes.Repeat([]byte{0x30}, 8192), "PEM": []byte("-----BEGIN PUBLIC KEY-----\n"),
		"secp256k1":           []byte(runOpenSSL(t, []byte(runOpenSSL(t, nil, "ecparam", "-name", "secp256k1", "-genkey", "-noout", "-outform", "DER")), "ec", "-inform", "DER", "-pubout", "-outform", "DER")),
		"explicit parameters": []byte(runOpenSSL(t, []byte(runOpenSSL(t, nil, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-param_enc", "explicit", "-outform", "DER")), "ec", "-inform", "DER", "-pubout", "-outform", "DER", "-param_enc", "explicit")),
	}
	for i := 1; i < len(good); i++ {
		forms[fmt.Sprintf("first %d bytes", i)] = good[:i]
	}
	for name, form := range forms {
		_, err := a.DeriveSharedSecret(t.Context(), &kms.DeriveSharedSecretInput{KeyId: id, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: form})
		if rig.Code(err) != "ValidationException" || rig.Message(err) != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = a.DeriveSharedSecret(t.Context(), &kms.DeriveSharedSecretInput{KeyId: id, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: good})
	wantOK().check(t, err)
}

// infinity is a P-256 key whose point is the one at infinity.
func infinity(t *testing.T) []byte {
	t.Helper()
	out, err := asn1.Marshal(struct {
		Algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
		Point     asn1.BitString
	}{
		struct{ Algorithm, Curve asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}},
		asn1.BitString{Bytes: []byte{0}, BitLength: 8},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
