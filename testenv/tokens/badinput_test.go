package tokens_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/backends"
)

// badInput checks what the other checks do not alter: what is well formed or well wrapped
// on the outside, and wrong within.
func badInput() (all []check) {
	for name, material := range badSecrets {
		all = append(all, check{"bad input", "an imported secret of " + name, func(ctx context.Context, w *world) error {
			return w.refusesMaterial(ctx, backends.SymmetricDefault, backends.EncryptDecrypt, types.AlgorithmSpecRsaesOaepSha256, material)
		}})
	}
	for name, bad := range badPrivates {
		all = append(all, check{"bad input", "an imported pair: " + name, func(ctx context.Context, w *world) error {
			material, err := bad.make()
			if err != nil {
				return err
			}
			return w.refusesMaterial(ctx, bad.spec, backends.SignVerify, types.AlgorithmSpecRsaAesKeyWrapSha256, material)
		}})
	}
	for name, alter := range map[string]func(*rsa.PublicKey){
		"an even modulus":  func(k *rsa.PublicKey) { k.N = new(big.Int).Sub(k.N, big.NewInt(1)) },
		"exponent 1":       func(k *rsa.PublicKey) { k.E = 1 },
		"an even exponent": func(k *rsa.PublicKey) { k.E = 65536 },
	} {
		all = append(all, check{"bad input", "a recipient's key with " + name, func(ctx context.Context, w *world) error {
			return w.refusesRecipient(ctx, alter)
		}})
	}
	for _, spec := range []backends.KeySpec{backends.P256, backends.RSA2048} {
		all = append(all, check{"bad input", "a digest of another length: " + string(spec), func(ctx context.Context, w *world) error {
			k, err := w.of(ctx, spec, backends.SignVerify)
			if err != nil {
				return err
			}
			return fails("ValidationException", func() error {
				_, err := w.Sign(ctx, &kms.SignInput{
					KeyId: k.id, Message: make([]byte, 31), MessageType: types.MessageTypeDigest,
					SigningAlgorithm: types.SigningAlgorithmSpec(signAlgorithms[spec][0]),
				})
				return err
			})
		}})
	}
	return append(all, check{"bad input", "a data key pair's blob", func(ctx context.Context, w *world) error {
		k, err := w.of(ctx, backends.SymmetricDefault, backends.EncryptDecrypt)
		if err != nil {
			return err
		}
		out, err := w.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: k.id, KeyPairSpec: types.DataKeyPairSpecEccNistP256})
		if err != nil {
			return err
		}
		return fails("InvalidCiphertextException", func() error {
			_, err := w.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: flipped(out.PrivateKeyCiphertextBlob)})
			return err
		})
	}})
}

var badSecrets = map[string][]byte{
	"16 bytes": make([]byte, 16), "31 bytes": make([]byte, 31), "33 bytes": make([]byte, 33), "64 bytes": make([]byte, 64),
}

// badPrivates are not private keys of the spec.
var badPrivates = map[string]struct {
	spec backends.KeySpec
	make func() ([]byte, error)
}{
	"no PKCS #8": {backends.P256, func() ([]byte, error) { return make([]byte, 138), nil }},
	"another curve": {backends.P256, func() ([]byte, error) {
		private, _, err := newPrivate(backends.P384)
		return private, err
	}},
	"RSA for a curve": {backends.P384, func() ([]byte, error) {
		private, _, err := newPrivate(backends.RSA2048)
		return private, err
	}},
	"the number 0":           {backends.P256, func() ([]byte, error) { return curveKey(big.NewInt(0)) }},
	"the order of the curve": {backends.P256, func() ([]byte, error) { return curveKey(elliptic.P256().Params().N) }},
	"RSA of another size": {backends.RSA3072, func() ([]byte, error) {
		private, _, err := newPrivate(backends.RSA2048)
		return private, err
	}},
	"RSA whose numbers do not fit": {backends.RSA2048, func() ([]byte, error) {
		private, _, err := newPrivate(backends.RSA2048)
		if err == nil {
			private[100] ^= 1 // in the modulus
		}
		return private, err
	}},
	"Ed25519, shortened": {backends.Ed25519, func() ([]byte, error) {
		private, _, err := newPrivate(backends.Ed25519)
		return private[:max(len(private)-1, 0)], err
	}},
}

// curveKey is PKCS #8 of a private number on P-256 that is none.
func curveKey(d *big.Int) ([]byte, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	const at = 36 // where the number is, in 32 bytes
	d.FillBytes(der[at : at+32])
	return der, nil
}

// refusesMaterial imports bad material, and looks at the key afterwards.
func (w *world) refusesMaterial(ctx context.Context, spec backends.KeySpec, usage backends.Usage, algorithm types.AlgorithmSpec, material []byte) error {
	id, in, err := w.toImport(ctx, spec, usage, algorithm, material)
	if err != nil {
		return err
	}
	if err := fails("IncorrectKeyMaterialException", func() error {
		_, err := w.ImportKeyMaterial(ctx, in)
		return err
	}); err != nil {
		return err
	}
	out, err := w.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: id})
	if err == nil && out.KeyMetadata.KeyState != types.KeyStatePendingImport {
		return fmt.Errorf("the key is %s", out.KeyMetadata.KeyState)
	}
	return err
}

// refusesRecipient asks for random bytes for a key that cannot be encrypted to.
func (w *world) refusesRecipient(ctx context.Context, alter func(*rsa.PublicKey)) error {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public := k.PublicKey
	alter(&public)
	der, err := x509.MarshalPKIXPublicKey(&public)
	if err != nil {
		return err
	}
	if len(der) == 0 {
		return errors.New("the key is not encoded")
	}
	return fails("ValidationException", func() error {
		_, err := w.GenerateRandom(ctx, &kms.GenerateRandomInput{
			NumberOfBytes: aws.Int32(32),
			Recipient:     &types.RecipientInfo{AttestationDocument: der, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"},
		})
		return err
	})
}
