package tokens_test

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RSAES_OAEP_SHA_1
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"hash"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
)

// imports checks key material that comes from outside, on each way that it takes.
func imports() (all []check) {
	for _, algorithm := range []types.AlgorithmSpec{
		types.AlgorithmSpecRsaesOaepSha1, types.AlgorithmSpecRsaesOaepSha256, types.AlgorithmSpecRsaAesKeyWrapSha1, types.AlgorithmSpecRsaAesKeyWrapSha256,
	} {
		all = append(all, check{"import", "AES " + string(algorithm), func(ctx context.Context, w *world) error {
			id, err := w.imported(ctx, backends.SymmetricDefault, backends.EncryptDecrypt, algorithm, make([]byte, 32))
			if err != nil {
				return err
			}
			out, err := w.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: []byte("plaintext"), EncryptionContext: binding})
			if err != nil {
				return err
			}
			return w.opens(ctx, out.CiphertextBlob, []byte("plaintext"))
		}}, check{"import", "material that is wrong: " + string(algorithm), func(ctx context.Context, w *world) error {
			id, in, err := w.toImport(ctx, backends.SymmetricDefault, backends.EncryptDecrypt, algorithm, make([]byte, 32))
			if err != nil {
				return err
			}
			in.KeyId = id
			good := in.EncryptedKeyMaterial
			last := slices.Clone(good) // what is under AES, if anything is
			last[len(last)-1] ^= 1
			var errs []error
			for _, in.EncryptedKeyMaterial = range [][]byte{flipped(good), last, good[:len(good)-8]} {
				errs = append(errs, fails("InvalidCiphertextException", func() error {
					_, err := w.ImportKeyMaterial(ctx, in)
					return err
				}))
			}
			return errors.Join(errs...)
		}})
		for spec, algorithms := range signAlgorithms {
			long := spec == backends.P521 || strings.HasPrefix(string(spec), "RSA") // for RSAES with 2048 bits
			if mlDSA[spec] != nil || long && strings.HasPrefix(string(algorithm), "RSAES") {
				continue
			}
			all = append(all, check{"import", string(spec) + " " + string(algorithm), func(ctx context.Context, w *world) error {
				return w.importsPair(ctx, spec, algorithm, algorithms[0])
			}})
		}
	}
	return all
}

// importsPair imports a private key and signs with it.
func (w *world) importsPair(ctx context.Context, spec backends.KeySpec, algorithm types.AlgorithmSpec, signing string) error {
	private, public, err := newPrivate(spec)
	if err != nil {
		return err
	}
	id, err := w.imported(ctx, spec, backends.SignVerify, algorithm, private)
	if err != nil {
		return err
	}
	out, err := w.Sign(ctx, &kms.SignInput{KeyId: id, Message: []byte("message"), SigningAlgorithm: types.SigningAlgorithmSpec(signing)})
	if err != nil {
		return err
	}
	if !verifies(public, spec, signing, []byte("message"), out.Signature) {
		return errors.New("the imported key does not sign")
	}
	return nil
}

// newPrivate makes a key outside of the token: PKCS #8 and the public key.
func newPrivate(spec backends.KeySpec) (private []byte, public any, err error) {
	var k crypto.Signer
	switch spec {
	case backends.Secp256k1:
		return newSecp256k1()
	case backends.Ed25519:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	case backends.P256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case backends.P384:
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case backends.P521:
		k, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case backends.RSA3072:
		k, err = rsa.GenerateKey(rand.Reader, 3072)
	case backends.RSA4096:
		k, err = rsa.GenerateKey(rand.Reader, 4096)
	default:
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		return nil, nil, err
	}
	private, err = x509.MarshalPKCS8PrivateKey(k)
	return private, k.Public(), err
}

var (
	oidECPublicKey = []int{1, 2, 840, 10045, 2, 1}
	oidSecp256k1   = []int{1, 3, 132, 0, 10}
)

// newSecp256k1 is newPrivate for the curve that the standard library has not (RFC 5915).
func newSecp256k1() ([]byte, any, error) {
	k, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		return nil, nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidECPublicKey)
			b.AddASN1ObjectIdentifier(oidSecp256k1)
		})
		b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1OctetString(k.Serialize())
			})
		})
	})
	private, err := b.Bytes()
	return private, k.PubKey(), err
}

// pairsSecp256k1 is pairs for that curve.
func pairsSecp256k1(public, private []byte) error {
	in := cryptobyte.String(private)
	var info, inner, sequence, value cryptobyte.String
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !info.SkipASN1(asn1.INTEGER) || !info.SkipASN1(asn1.SEQUENCE) ||
		!info.ReadASN1(&inner, asn1.OCTET_STRING) || !inner.ReadASN1(&sequence, asn1.SEQUENCE) ||
		!sequence.SkipASN1(asn1.INTEGER) || !sequence.ReadASN1(&value, asn1.OCTET_STRING) {
		return errors.New("the private key is not PKCS #8")
	}
	k, err := parsePublic(backends.Secp256k1, public)
	if err != nil {
		return err
	}
	if !secp256k1.PrivKeyFromBytes(value).PubKey().IsEqual(k.(*secp256k1.PublicKey)) {
		return errors.New("the private key is that of another public key")
	}
	return nil
}

// imported imports material and returns the key's ID.
func (w *world) imported(ctx context.Context, spec backends.KeySpec, usage backends.Usage, algorithm types.AlgorithmSpec, material []byte) (*string, error) {
	id, in, err := w.toImport(ctx, spec, usage, algorithm, material)
	if err != nil {
		return nil, err
	}
	_, err = w.ImportKeyMaterial(ctx, in)
	return id, err
}

// toImport makes a key without material, and wraps the material for it.
func (w *world) toImport(ctx context.Context, spec backends.KeySpec, usage backends.Usage, algorithm types.AlgorithmSpec, material []byte) (*string, *kms.ImportKeyMaterialInput, error) {
	made, err := w.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpec(spec), KeyUsage: types.KeyUsageType(usage), Origin: types.OriginTypeExternal})
	if err != nil {
		return nil, nil, err
	}
	id := made.KeyMetadata.KeyId
	p, err := w.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: id, WrappingAlgorithm: algorithm, WrappingKeySpec: types.WrappingKeySpecRsa2048})
	if err != nil {
		return nil, nil, err
	}
	public, err := x509.ParsePKIXPublicKey(p.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	wrapped, err := wrap(public.(*rsa.PublicKey), algorithm, material)
	return id, &kms.ImportKeyMaterialInput{
		KeyId: id, ImportToken: p.ImportToken, EncryptedKeyMaterial: wrapped,
		ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
	}, err
}

// wrap wraps key material as clients do.
func wrap(public *rsa.PublicKey, algorithm types.AlgorithmSpec, material []byte) ([]byte, error) {
	h := func() hash.Hash { return sha256.New() }
	if strings.HasSuffix(string(algorithm), "_SHA_1") {
		h = sha1.New
	}
	if strings.HasPrefix(string(algorithm), "RSAES") {
		return rsa.EncryptOAEP(h(), rand.Reader, public, material, nil)
	}
	kek := make([]byte, 2*aes.BlockSize)
	_, _ = rand.Read(kek) // never fails
	kwp, err := subtle.NewKWP(kek)
	if err != nil {
		return nil, err
	}
	inner, err := kwp.Wrap(material)
	if err != nil {
		return nil, err
	}
	outer, err := rsa.EncryptOAEP(h(), rand.Reader, public, kek, nil)
	return append(outer, inner...), err
}
