package memscan_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/testenv/memscan"
)

// caller makes calls, each with secrets of its own.
type caller struct {
	*kms.Client
	t         *testing.T
	recipient *rsa.PrivateKey

	mu      sync.Mutex
	secrets memscan.Secrets // guarded by mu

	symmetric, other, rsa, hmac, sign, agree *string
}

func newCaller(t *testing.T, client *kms.Client) *caller {
	t.Helper()
	c := &caller{Client: client, t: t}
	var err error
	if c.recipient, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	c.symmetric, c.other = c.key("", ""), c.key("", "")
	c.rsa = c.key(types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt)
	c.hmac = c.key(types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac)
	c.sign = c.key(types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
	c.agree = c.key(types.KeySpecEccNistP256, types.KeyUsageTypeKeyAgreement)
	return c
}

func (c *caller) key(spec types.KeySpec, usage types.KeyUsageType) *string {
	c.t.Helper()
	return c.create(&kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
}

func (c *caller) create(in *kms.CreateKeyInput) *string {
	c.t.Helper()
	return must(c.CreateKey(c.t.Context(), in))(c.t).KeyMetadata.KeyId
}

// must gives the answer of a call that may not fail.
func must[Out any](out *Out, err error) func(testing.TB) *Out {
	return func(t testing.TB) *Out {
		t.Helper()
		if err != nil {
			t.Error(err)
			return new(Out)
		}
		return out
	}
}

// secret adds what must not be found afterwards.
func (c *caller) secret(name string, value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(value) < memscan.MinLength {
		c.t.Errorf("%s: a secret of %d bytes", name, len(value))
		return
	}
	c.secrets.Add(name, value)
}

// fresh is a new secret of n bytes.
func (c *caller) fresh(name string, n int) []byte {
	b := random(n)
	c.secret(name, b)
	return b
}

// to is the recipient in a request; open opens what was sent to it.
func (c *caller) to() *types.RecipientInfo {
	public, err := x509.MarshalPKIXPublicKey(&c.recipient.PublicKey)
	if err != nil {
		c.t.Fatal(err)
	}
	return &types.RecipientInfo{AttestationDocument: public, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"} // all that SoftHSM2 has
}

func (c *caller) open(sealed []byte) []byte {
	opened, err := rsa.DecryptOAEP(sha1.New(), nil, c.recipient, sealed, nil)
	if err != nil {
		c.t.Errorf("opening what was sent to the recipient: %v", err)
	}
	return opened
}

// lengths of plaintexts and messages in bytes, in turns: the longest that there
// are, and some around the sizes of buffers.
var lengths = []int{32, 4096, 100, 1500, 3000, 2100}

// kind is a kind of call with what it has secret. n counts from 0.
type kind struct {
	name string
	call func(c *caller, ctx context.Context, name string, n int)
	// few: it takes so long that there are few of them in the tests of every day.
	few bool
}

var kinds = []kind{
	{"Encrypt, Decrypt", (*caller).roundTrip, false},
	{"Encrypt, Decrypt, RSA", (*caller).roundTripRSA, false},
	{"ReEncrypt", (*caller).move, false},
	{"GenerateDataKey", (*caller).dataKey, false},
	{"GenerateDataKeyWithoutPlaintext", (*caller).dataKeyWithout, false},
	{"GenerateDataKeyPair", (*caller).pair, false},
	{"GenerateDataKeyPair, RSA", (*caller).pairRSA, true},
	{"GenerateRandom", (*caller).randomBytes, false},
	{"GenerateMac, VerifyMac", (*caller).mac, false},
	{"Sign, Verify", (*caller).signature, false},
	{"DeriveSharedSecret", (*caller).agreement, false},
	{"ImportKeyMaterial", (*caller).imports, true},
	{"ImportKeyMaterial, private keys", (*caller).importsPrivate, true},
	{"Recipient", (*caller).recipients, false},
	{"refused", (*caller).refused, false},
}

func (c *caller) roundTrip(ctx context.Context, name string, n int) {
	plaintext := c.fresh(name, lengths[n%len(lengths)])
	sealed := must(c.Encrypt(ctx, &kms.EncryptInput{KeyId: c.symmetric, Plaintext: plaintext, EncryptionContext: map[string]string{"n": name}}))(c.t)
	opened := must(c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: map[string]string{"n": name}}))(c.t)
	if !bytes.Equal(opened.Plaintext, plaintext) {
		c.t.Errorf("%s: another plaintext came back", name)
	}
}

func (c *caller) roundTripRSA(ctx context.Context, name string, n int) {
	plaintext := c.fresh(name, 32+n%150) // up to 190 with SHA-256
	a := []types.EncryptionAlgorithmSpec{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"}[n%2]
	sealed := must(c.Encrypt(ctx, &kms.EncryptInput{KeyId: c.rsa, Plaintext: plaintext, EncryptionAlgorithm: a}))(c.t)
	must(c.Decrypt(ctx, &kms.DecryptInput{KeyId: c.rsa, CiphertextBlob: sealed.CiphertextBlob, EncryptionAlgorithm: a}))(c.t)
}

func (c *caller) move(ctx context.Context, name string, n int) {
	plaintext := c.fresh(name, 150)
	sealed := must(c.Encrypt(ctx, &kms.EncryptInput{KeyId: c.symmetric, Plaintext: plaintext}))(c.t)
	moved := must(c.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: sealed.CiphertextBlob, DestinationKeyId: c.other}))(c.t)
	must(c.ReEncrypt(ctx, &kms.ReEncryptInput{
		CiphertextBlob: moved.CiphertextBlob, DestinationKeyId: c.rsa, DestinationEncryptionAlgorithm: "RSAES_OAEP_SHA_256",
	}))(c.t)
}

func (c *caller) dataKey(ctx context.Context, name string, n int) {
	bytes := []int32{32, 64, 1024, 33, 511}[n%5] // 33 and 511 are derived in SoftHSM2
	made := must(c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: c.symmetric, NumberOfBytes: &bytes}))(c.t)
	c.secret(name, made.Plaintext)
	must(c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob}))(c.t)
}

func (c *caller) dataKeyWithout(ctx context.Context, name string, n int) {
	made := must(c.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: c.symmetric, KeySpec: "AES_256"}))(c.t)
	c.secret(name, must(c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob}))(c.t).Plaintext)
}

// pkcs8 adds the numbers of a private key; what stands around them is not secret.
func (c *caller) pkcs8(name string, der []byte) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		c.t.Errorf("%s: %v", name, err)
		return
	}
	switch k := k.(type) {
	case *rsa.PrivateKey:
		c.secret(name+", d", k.D.Bytes())
		c.secret(name+", p", k.Primes[0].Bytes())
		c.secret(name+", q", k.Primes[1].Bytes())
		c.secret(name+", dP", k.Precomputed.Dp.FillBytes(make([]byte, 128)))
		c.secret(name+", dQ", k.Precomputed.Dq.FillBytes(make([]byte, 128)))
		c.secret(name+", qInv", k.Precomputed.Qinv.FillBytes(make([]byte, 128)))
	case *ecdsa.PrivateKey:
		d, err := k.Bytes()
		if err != nil {
			c.t.Error(err)
		}
		c.secret(name, d)
	case ed25519.PrivateKey:
		c.secret(name, k.Seed())
	default:
		c.t.Errorf("%s: a %T", name, k)
	}
}

func (c *caller) pair(ctx context.Context, name string, n int) {
	spec := []types.DataKeyPairSpec{"ECC_NIST_P256", "ECC_NIST_EDWARDS25519", "ECC_NIST_P384"}[n%3]
	c.makePair(ctx, name, spec)
}

func (c *caller) pairRSA(ctx context.Context, name string, n int) { c.makePair(ctx, name, "RSA_2048") }

func (c *caller) makePair(ctx context.Context, name string, spec types.DataKeyPairSpec) {
	made := must(c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: c.symmetric, KeyPairSpec: spec}))(c.t)
	c.pkcs8(name+" "+string(spec), made.PrivateKeyPlaintext)
	must(c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.PrivateKeyCiphertextBlob}))(c.t)
}

func (c *caller) randomBytes(ctx context.Context, name string, n int) {
	bytes := []int32{32, 1024, 100}[n%3]
	c.secret(name, must(c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: &bytes}))(c.t).Plaintext)
}

func (c *caller) mac(ctx context.Context, name string, n int) {
	message := c.fresh(name, lengths[n%len(lengths)])
	made := must(c.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: c.hmac, Message: message, MacAlgorithm: "HMAC_SHA_256"}))(c.t)
	must(c.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: c.hmac, Message: message, Mac: made.Mac, MacAlgorithm: "HMAC_SHA_256"}))(c.t)
}

func (c *caller) signature(ctx context.Context, name string, n int) {
	message, kind := c.fresh(name, lengths[n%len(lengths)]), types.MessageTypeRaw
	if n%4 == 3 {
		message, kind = c.fresh(name+", digest", 32), types.MessageTypeDigest
	}
	made := must(c.Sign(ctx, &kms.SignInput{KeyId: c.sign, Message: message, MessageType: kind, SigningAlgorithm: "ECDSA_SHA_256"}))(c.t)
	must(c.Verify(ctx, &kms.VerifyInput{KeyId: c.sign, Message: message, MessageType: kind, Signature: made.Signature, SigningAlgorithm: "ECDSA_SHA_256"}))(c.t)
}

// peer is a fresh public key to agree with.
func (c *caller) peer() []byte {
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.PublicKey())
	if err != nil {
		c.t.Fatal(err)
	}
	return der
}

func (c *caller) agreement(ctx context.Context, name string, n int) {
	made := must(c.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: c.agree, KeyAgreementAlgorithm: "ECDH", PublicKey: c.peer()}))(c.t)
	c.secret(name, made.SharedSecret)
}

func (c *caller) imports(ctx context.Context, name string, n int) {
	spec, usage := types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt
	if n%2 == 1 {
		spec, usage = types.KeySpecHmac512, types.KeyUsageTypeGenerateVerifyMac
	}
	material := c.fresh(name, map[types.KeySpec]int{types.KeySpecSymmetricDefault: 32, types.KeySpecHmac512: 64}[spec])
	c.bringIn(ctx, name, spec, usage, material, n)
}

func (c *caller) importsPrivate(ctx context.Context, name string, n int) {
	var key any
	var err error
	spec := types.KeySpecEccNistP256
	if n%2 == 0 {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		spec = types.KeySpecRsa2048
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	c.pkcs8(name, der)
	c.bringIn(ctx, name, spec, types.KeyUsageTypeSignVerify, der, 1)
}

// bringIn imports material, wrapped twice for odd n.
func (c *caller) bringIn(ctx context.Context, name string, spec types.KeySpec, usage types.KeyUsageType, material []byte, n int) {
	id := c.create(&kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage, Origin: types.OriginTypeExternal})
	algorithm := types.AlgorithmSpecRsaesOaepSha256
	if n%2 == 1 {
		algorithm = types.AlgorithmSpecRsaAesKeyWrapSha256
	}
	p := must(c.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: id, WrappingAlgorithm: algorithm, WrappingKeySpec: "RSA_2048"}))(c.t)
	parsed, err := x509.ParsePKIXPublicKey(p.PublicKey)
	if err != nil {
		c.t.Error(err)
		return
	}
	under, behind := material, []byte(nil)
	if n%2 == 1 {
		under = c.fresh(name+", AES key", 32)
		kwp, err := subtle.NewKWP(under)
		if err == nil {
			behind, err = kwp.Wrap(material)
		}
		if err != nil {
			c.t.Error(err)
		}
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, parsed.(*rsa.PublicKey), under, nil)
	if err != nil {
		c.t.Error(err)
	}
	must(c.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{
		KeyId: id, ImportToken: p.ImportToken, EncryptedKeyMaterial: append(wrapped, behind...), ExpirationModel: "KEY_MATERIAL_DOES_NOT_EXPIRE",
	}))(c.t)
}

func (c *caller) recipients(ctx context.Context, name string, n int) {
	made := must(c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: c.symmetric, KeySpec: "AES_256", Recipient: c.to()}))(c.t)
	c.secret(name+", data key", c.open(made.CiphertextForRecipient))
	must(c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, Recipient: c.to()}))(c.t)
	sealed := must(c.Encrypt(ctx, &kms.EncryptInput{KeyId: c.symmetric, Plaintext: c.fresh(name+", plaintext", lengths[n%len(lengths)])}))(c.t)
	must(c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, Recipient: c.to()}))(c.t)
	c.secret(name+", random", c.open(must(c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(40), Recipient: c.to()}))(c.t).CiphertextForRecipient))
	agreed := must(c.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: c.agree, KeyAgreementAlgorithm: "ECDH", PublicKey: c.peer(), Recipient: c.to()}))(c.t)
	c.secret(name+", shared secret", c.open(agreed.CiphertextForRecipient))
}

// refused: calls that fail have had secrets, too.
func (c *caller) refused(ctx context.Context, name string, n int) {
	nobody, plaintext := aws.String("12345678-1234-1234-1234-123456789012"), func(what string) []byte { return c.fresh(name+", "+what, lengths[n%len(lengths)]) }
	for what, err := range map[string]error{
		"no key":      second(c.Encrypt(ctx, &kms.EncryptInput{KeyId: nobody, Plaintext: plaintext("no key")})),
		"wrong usage": second(c.Encrypt(ctx, &kms.EncryptInput{KeyId: c.sign, Plaintext: plaintext("wrong usage")})),
		"too long":    second(c.Encrypt(ctx, &kms.EncryptInput{KeyId: c.symmetric, Plaintext: c.fresh(name+", too long", 4097+100*n)})),
		"too long for RSA": second(c.Encrypt(ctx, &kms.EncryptInput{
			KeyId: c.rsa, Plaintext: c.fresh(name+", too long for RSA", 300), EncryptionAlgorithm: "RSAES_OAEP_SHA_256",
		})),
		"dry run":   second(c.Encrypt(ctx, &kms.EncryptInput{KeyId: c.symmetric, Plaintext: plaintext("dry run"), DryRun: aws.Bool(true)})),
		"wrong MAC": second(c.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: c.hmac, Message: plaintext("wrong MAC"), Mac: random(32), MacAlgorithm: "HMAC_SHA_256"})),
	} {
		if err == nil {
			c.t.Errorf("%s, %s: it was not refused", name, what)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// run makes n calls of a kind, one after the other.
func (c *caller) run(k kind, n int) {
	for i := range n {
		k.call(c, c.t.Context(), fmt.Sprintf("%s %d", k.name, i), i)
	}
}

// runAll makes n calls of each kind, and few of those that take long.
func (c *caller) runAll(n, few int) {
	var running sync.WaitGroup
	for _, k := range kinds {
		running.Go(func() {
			if k.few {
				c.run(k, few)
				return
			}
			c.run(k, n)
		})
	}
	running.Wait()
}
