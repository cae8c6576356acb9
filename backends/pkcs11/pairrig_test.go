package pkcs11_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"slices"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/testenv"
)

// PKCS#11 3.0.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEDDSA               = 0x1057
)

// pairs says again, apart from the code under test, what key pairs are.
var pairs = map[backends.KeySpec]struct {
	keyType, generate uint
	bits              int
	curve, other      []byte // CKA_EC_PARAMS, and those of another key of the type
}{
	backends.RSA2048:   {p11.CKK_RSA, p11.CKM_RSA_PKCS_KEY_PAIR_GEN, 2048, nil, nil},
	backends.P256:      {p11.CKK_EC, p11.CKM_EC_KEY_PAIR_GEN, 0, p256, secp256k1},
	backends.P384:      {p11.CKK_EC, p11.CKM_EC_KEY_PAIR_GEN, 0, []byte{6, 5, 0x2b, 0x81, 4, 0, 0x22}, p256},
	backends.P521:      {p11.CKK_EC, p11.CKM_EC_KEY_PAIR_GEN, 0, []byte{6, 5, 0x2b, 0x81, 4, 0, 0x23}, p256},
	backends.Secp256k1: {p11.CKK_EC, p11.CKM_EC_KEY_PAIR_GEN, 0, secp256k1, p256},
	backends.Ed25519:   {ckkECEdwards, ckmECEdwardsKeyPairGen, 0, printable("edwards25519"), printable("edwards448")},
}

var (
	p256      = []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}
	secp256k1 = []byte{6, 5, 0x2b, 0x81, 4, 0, 0x0a}
)

func printable(s string) []byte { return append([]byte{0x13, byte(len(s))}, s...) }

// privateUse is the usage attribute and the mechanisms of a private key. RSA
// keys do without OAEP of the token in SoftHSM2, which has it with SHA-1 only.
func privateUse(key backends.Key) (use uint, mechanisms []uint) {
	keyType := pairs[key.Spec].keyType
	switch {
	case key.Usage == backends.KeyAgreement:
		return p11.CKA_DERIVE, []uint{p11.CKM_ECDH1_DERIVE}
	case key.Usage == backends.EncryptDecrypt:
		return p11.CKA_DECRYPT, []uint{p11.CKM_RSA_PKCS_OAEP, p11.CKM_RSA_X_509}
	case keyType == p11.CKK_RSA:
		return p11.CKA_SIGN, []uint{p11.CKM_RSA_PKCS, p11.CKM_RSA_PKCS_PSS}
	case keyType == p11.CKK_EC:
		return p11.CKA_SIGN, []uint{p11.CKM_ECDSA}
	}
	return p11.CKA_SIGN, []uint{ckmEDDSA}
}

func privateTemplate(key backends.Key, flaw backendstest.Flaw) template {
	own, mechanisms := privateUse(key)
	extra := uint(p11.CKA_UNWRAP)
	if flaw == backendstest.OtherMechanism {
		mechanisms = append(slices.Clone(mechanisms), p11.CKM_RSA_9796)
	}
	var list []byte
	for _, m := range mechanisms {
		list = append(list, p11.NewAttribute(p11.CKA_ALLOWED_MECHANISMS, m).Value...)
	}
	a := template{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, pairs[key.Spec].keyType),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, flaw != backendstest.NotSensitive),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, flaw == backendstest.Extractable),
		p11.NewAttribute(p11.CKA_COPYABLE, false),
		p11.NewAttribute(p11.CKA_ID, key.ID[:]),
		p11.NewAttribute(p11.CKA_LABEL, "cmkd:test-"+key.ID.String()+":1"),
		p11.NewAttribute(p11.CKA_ALLOWED_MECHANISMS, list),
		p11.NewAttribute(p11.CKA_MODIFIABLE, flaw == backendstest.Modifiable),
	}
	for _, use := range []uint{p11.CKA_DECRYPT, p11.CKA_SIGN, p11.CKA_SIGN_RECOVER, p11.CKA_UNWRAP, p11.CKA_DERIVE} {
		a.set(use, use == own || flaw == backendstest.ExtraUsage && use == extra)
	}
	return a
}

// plantPair puts a key pair with a flaw in its private key into the token.
func plantPair(t testing.TB, tok *testenv.Token, key backends.Key, flaw backendstest.Flaw) {
	t.Helper()
	kind := pairs[key.Spec]
	public := template{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_ID, key.ID[:]),
		p11.NewAttribute(p11.CKA_VERIFY, true),
	}
	private := privateTemplate(key, flaw)
	if flaw == backendstest.NotGenerated {
		plantPrivate(t, tok, key, private)
		return
	}
	bits, curve := kind.bits, kind.curve
	if flaw == backendstest.OtherLength {
		bits, curve = kind.bits/2, kind.other
	}
	if bits > 0 {
		public.set(p11.CKA_MODULUS_BITS, bits)
		public.set(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})
	} else {
		public.set(p11.CKA_EC_PARAMS, curve)
	}
	ctx, s := tok.Objects(t)
	if _, _, err := ctx.GenerateKeyPair(s, []*p11.Mechanism{p11.NewMechanism(kind.generate, nil)}, public, private); err != nil {
		t.Fatalf("planting a key pair that is %s: %v", flaw, err)
	}
}

// plantPrivate puts a private key that was made elsewhere into the token.
func plantPrivate(t testing.TB, tok *testenv.Token, key backends.Key, a template) {
	t.Helper()
	number := make([]byte, 32)
	number[31] = 7
	switch key.Spec {
	case backends.RSA2048:
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		for attribute, n := range map[uint]*big.Int{
			p11.CKA_MODULUS: k.N, p11.CKA_PUBLIC_EXPONENT: big.NewInt(int64(k.E)), p11.CKA_PRIVATE_EXPONENT: k.D,
			p11.CKA_PRIME_1: k.Primes[0], p11.CKA_PRIME_2: k.Primes[1],
			p11.CKA_EXPONENT_1: k.Precomputed.Dp, p11.CKA_EXPONENT_2: k.Precomputed.Dq, p11.CKA_COEFFICIENT: k.Precomputed.Qinv,
		} {
			a.set(attribute, n.Bytes())
		}
	default:
		a.set(p11.CKA_EC_PARAMS, pairs[key.Spec].curve)
		a.set(p11.CKA_VALUE, number)
	}
	ctx, s := tok.Objects(t)
	if _, err := ctx.CreateObject(s, a); err != nil {
		t.Fatalf("planting a private key: %v", err)
	}
}

// planted is a P-256 private key without a public key object, and the public
// key that it has.
func planted(t testing.TB, tok *testenv.Token, key backends.Key) *ecdsa.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	a := privateTemplate(key, backendstest.Good)
	a.set(p11.CKA_EC_PARAMS, p256)
	a.set(p11.CKA_VALUE, raw)
	ctx, s := tok.Objects(t)
	if _, err := ctx.CreateObject(s, a); err != nil {
		t.Fatal(err)
	}
	return &k.PublicKey
}
