package tokens_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RSAES_OAEP_SHA_1
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	dcrecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"cmkd/backends"
)

var mlDSA = map[backends.KeySpec]sign.Scheme{
	backends.MLDSA44: mldsa44.Scheme(), backends.MLDSA65: mldsa65.Scheme(), backends.MLDSA87: mldsa87.Scheme(),
}

var (
	rsaSpecs       = []backends.KeySpec{backends.RSA2048, backends.RSA3072, backends.RSA4096}
	signAlgorithms = map[backends.KeySpec][]string{
		backends.P256: {"ECDSA_SHA_256"}, backends.P384: {"ECDSA_SHA_384"}, backends.P521: {"ECDSA_SHA_512"},
		backends.Secp256k1: {"ECDSA_SHA_256"}, backends.Ed25519: {"ED25519_SHA_512", "ED25519_PH_SHA_512"},
		backends.MLDSA44: {"ML_DSA_SHAKE_256"}, backends.MLDSA65: {"ML_DSA_SHAKE_256"}, backends.MLDSA87: {"ML_DSA_SHAKE_256"},
	}
)

func init() {
	for _, spec := range rsaSpecs {
		for _, scheme := range []string{"PKCS1_V1_5", "PSS"} {
			for _, size := range []string{"256", "384", "512"} {
				signAlgorithms[spec] = append(signAlgorithms[spec], "RSASSA_"+scheme+"_SHA_"+size)
			}
		}
	}
}

// signatures checks keys that sign.
func signatures() (all []check) {
	message := []byte("message")
	for spec, algorithms := range signAlgorithms {
		for _, algorithm := range algorithms {
			what := string(spec) + " " + algorithm
			in := func(ctx context.Context, w *world) (*key, *kms.SignInput, []byte, error) {
				k, err := w.of(ctx, spec, backends.SignVerify)
				if err != nil {
					return nil, nil, nil, err
				}
				in := &kms.SignInput{KeyId: k.id, Message: message, SigningAlgorithm: types.SigningAlgorithmSpec(algorithm)}
				if strings.HasPrefix(algorithm, "ED25519_PH") {
					in.MessageType, in.Message = types.MessageTypeDigest, digest(crypto.SHA512, message)
				}
				out, err := w.Sign(ctx, in)
				if err != nil {
					return nil, nil, nil, err
				}
				return k, in, out.Signature, nil
			}
			all = append(all, check{"sign", what, func(ctx context.Context, w *world) error {
				k, in, signature, err := in(ctx, w)
				if err != nil {
					return err
				}
				if !verifies(k.public, spec, algorithm, message, signature) {
					return errors.New("the signature is not one")
				}
				_, err = w.Verify(ctx, &kms.VerifyInput{KeyId: in.KeyId, Message: in.Message, MessageType: in.MessageType, SigningAlgorithm: in.SigningAlgorithm, Signature: signature})
				return err
			}}, check{"sign", "a signature that is wrong: " + what, func(ctx context.Context, w *world) error {
				_, in, signature, err := in(ctx, w)
				if err != nil {
					return err
				}
				return fails("KMSInvalidSignatureException", func() error {
					_, err := w.Verify(ctx, &kms.VerifyInput{KeyId: in.KeyId, Message: in.Message, MessageType: in.MessageType, SigningAlgorithm: in.SigningAlgorithm, Signature: flipped(signature)})
					return err
				})
			}})
		}
	}
	return all
}

// hashOf is the hash in the name of an algorithm.
func hashOf(algorithm string) crypto.Hash {
	switch {
	case strings.HasSuffix(algorithm, "_384"):
		return crypto.SHA384
	case strings.HasSuffix(algorithm, "_512"):
		return crypto.SHA512
	default:
		return crypto.SHA256
	}
}

// verifies checks a signature apart from the code under test.
func verifies(public any, spec backends.KeySpec, algorithm string, message, signature []byte) bool {
	h := hashOf(algorithm)
	switch k := public.(type) {
	case *rsa.PublicKey:
		if strings.Contains(algorithm, "PSS") {
			return rsa.VerifyPSS(k, h, digest(h, message), signature, nil) == nil
		}
		return rsa.VerifyPKCS1v15(k, h, digest(h, message), signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest(h, message), signature)
	case *secp256k1.PublicKey:
		s, err := dcrecdsa.ParseDERSignature(signature)
		return err == nil && s.Verify(digest(h, message), k)
	case ed25519.PublicKey:
		if strings.Contains(algorithm, "_PH_") {
			return ed25519.VerifyWithOptions(k, digest(h, message), signature, &ed25519.Options{Hash: crypto.SHA512}) == nil
		}
		return ed25519.Verify(k, message, signature)
	case sign.PublicKey:
		return mlDSA[spec].Verify(k, message, signature, nil)
	}
	return false
}

// rsaDecryption checks RSA keys that decrypt.
func rsaDecryption() (all []check) {
	for _, spec := range rsaSpecs {
		for name, h := range map[string]func() hash.Hash{"RSAES_OAEP_SHA_1": sha1.New, "RSAES_OAEP_SHA_256": sha256.New} {
			algorithm := types.EncryptionAlgorithmSpec(name)
			decrypt := func(ctx context.Context, w *world, alter func([]byte) []byte) error {
				k, err := w.of(ctx, spec, backends.EncryptDecrypt)
				if err != nil {
					return err
				}
				c, err := rsa.EncryptOAEP(h(), rand.Reader, k.public.(*rsa.PublicKey), []byte("plaintext"), nil)
				if err != nil {
					return err
				}
				out, err := w.Decrypt(ctx, &kms.DecryptInput{KeyId: k.id, CiphertextBlob: alter(c), EncryptionAlgorithm: algorithm})
				if err == nil && string(out.Plaintext) != "plaintext" {
					return errors.New("it decrypts to something else")
				}
				return err
			}
			all = append(all, check{"decrypt with RSA", string(spec) + " " + name, func(ctx context.Context, w *world) error {
				return decrypt(ctx, w, slices.Clone)
			}}, check{"decrypt with RSA", "a ciphertext that is wrong: " + string(spec) + " " + name, func(ctx context.Context, w *world) error {
				if _, err := w.of(ctx, spec, backends.EncryptDecrypt); err != nil {
					return err
				}
				random := make([]byte, 512)
				_, _ = rand.Read(random) // never fails
				random[0] = 0
				return errors.Join(
					fails("InvalidCiphertextException", func() error { return decrypt(ctx, w, flipped) }),
					fails("InvalidCiphertextException", func() error {
						return decrypt(ctx, w, func(c []byte) []byte { return random[:len(c)] })
					}))
			}})
		}
	}
	return all
}

// agreement checks keys that agree on a secret.
func agreement() (all []check) {
	for spec, curve := range map[backends.KeySpec]ecdh.Curve{backends.P256: ecdh.P256(), backends.P384: ecdh.P384(), backends.P521: ecdh.P521()} {
		derive := func(ctx context.Context, w *world, id *string, public []byte) ([]byte, error) {
			out, err := w.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: id, PublicKey: public, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh})
			if err != nil {
				return nil, err
			}
			return out.SharedSecret, nil
		}
		all = append(all, check{"agree", string(spec), func(ctx context.Context, w *world) error {
			k, err := w.of(ctx, spec, backends.KeyAgreement)
			if err != nil {
				return err
			}
			peer, err := curve.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			ours, err := k.public.(*ecdsa.PublicKey).ECDH()
			if err != nil {
				return err
			}
			want, err := peer.ECDH(ours)
			if err != nil {
				return err
			}
			public, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
			if err != nil {
				return err
			}
			if got, err := derive(ctx, w, k.id, public); err != nil || !bytes.Equal(got, want) {
				return fmt.Errorf("another secret: %w", err)
			}
			return nil
		}}, check{"agree", "a point that is wrong: " + string(spec), func(ctx context.Context, w *world) error {
			k, err := w.of(ctx, spec, backends.KeyAgreement)
			if err != nil {
				return err
			}
			bad := bytes.Clone(k.der)
			bad[len(bad)-1] ^= 1
			return fails("ValidationException", func() error {
				_, err := derive(ctx, w, k.id, bad)
				return err
			})
		}})
	}
	return all
}

// dataKeyPairs checks pairs that leave.
func dataKeyPairs() (all []check) {
	for _, spec := range []backends.KeySpec{backends.RSA2048, backends.RSA3072, backends.P256, backends.P384, backends.P521, backends.Secp256k1, backends.Ed25519} {
		all = append(all, check{"data key pairs", string(spec), func(ctx context.Context, w *world) error {
			k, err := w.of(ctx, backends.SymmetricDefault, backends.EncryptDecrypt)
			if err != nil {
				return err
			}
			out, err := w.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: k.id, KeyPairSpec: types.DataKeyPairSpec(spec), EncryptionContext: binding})
			if err != nil {
				return err
			}
			if err := pairs(spec, out.PublicKey, out.PrivateKeyPlaintext); err != nil {
				return err
			}
			return w.opens(ctx, out.PrivateKeyCiphertextBlob, out.PrivateKeyPlaintext)
		}}, check{"data key pairs", string(spec) + " without plaintext", func(ctx context.Context, w *world) error {
			k, err := w.of(ctx, backends.SymmetricDefault, backends.EncryptDecrypt)
			if err != nil {
				return err
			}
			out, err := w.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: k.id, KeyPairSpec: types.DataKeyPairSpec(spec), EncryptionContext: binding})
			if err != nil {
				return err
			}
			opened, err := w.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: out.PrivateKeyCiphertextBlob, EncryptionContext: binding})
			if err != nil {
				return err
			}
			return pairs(spec, out.PublicKey, opened.Plaintext)
		}})
	}
	return all
}

// pairs fails unless the private key is that of the public one.
func pairs(spec backends.KeySpec, public, private []byte) error {
	if spec == backends.Secp256k1 {
		return pairsSecp256k1(public, private)
	}
	k, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(k.(crypto.Signer).Public())
	if err == nil && !bytes.Equal(der, public) {
		return errors.New("the private key is that of another public key")
	}
	return err
}
