package pkcs11_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

func TestImportSymmetric(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := pkcs11.NewSymmetric(open(t, tok))
		r := newImportRig(tok, b)
		material := randomOf(t, 32)
		block, err := aes.NewCipher(material)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		r.imports(t, backends.SymmetricDefault, backends.EncryptDecrypt, material, func(t *testing.T, key backends.Key, _ []byte) {
			answer, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("text"), AAD: []byte("aad")})
			if err != nil {
				t.Fatal(err)
			}
			got, err := gcm.Open(nil, answer.Sealed.IV, answer.Sealed.Ciphertext, []byte("aad"))
			if err != nil || string(got) != "text" {
				t.Errorf("Go does not decrypt it: %v", err)
			}
		})
		bad := map[string][]byte{}
		for _, n := range []int{16, 24, 25, 31, 33, 40, 64} {
			bad[fmt.Sprint(n)] = randomOf(t, n)
		}
		r.refusals(t, backends.SymmetricDefault, backends.EncryptDecrypt, material, bad)
		in := r.request(t, backends.AES256, backends.WrapDataKeys, r.pair(t, backends.RSA3072), "RSAES_OAEP_SHA_1",
			wrap(t, r.pair(t, backends.RSA3072).public, "RSAES_OAEP_SHA_1", material))
		r.refused(t, "a data-key wrapping key", in, backends.InvalidRequest)
		t.Run("SHA-1 in the token", func(t *testing.T) {
			pair := r.pair(t, backends.RSA2048)
			in := r.request(t, backends.SymmetricDefault, backends.EncryptDecrypt, pair, "RSAES_OAEP_SHA_1", wrap(t, pair.public, "RSAES_OAEP_SHA_1", material))
			in.TokenOnly = true
			if answer, err := b.ImportKey(t.Context(), in); err != nil || answer.ThroughPlugin {
				t.Errorf("%+v, %v", answer, err)
			}
			other := *in
			other.Material = wrap(t, pair.public, "RSAES_OAEP_SHA_1", randomOf(t, 32))
			if _, err := b.ImportKey(t.Context(), &other); backends.CodeOf(err) != backends.InvalidRequest {
				t.Errorf("other material under the same CKA_ID: %v", err)
			}
		})
	})
}

func randomOf(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func TestImportHMAC(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := pkcs11.NewHMAC(open(t, tok))
		r := newImportRig(tok, b)
		for spec, h := range map[backends.KeySpec]crypto.Hash{
			backends.HMAC224: crypto.SHA224, backends.HMAC256: crypto.SHA256, backends.HMAC384: crypto.SHA384, backends.HMAC512: crypto.SHA512,
		} {
			t.Run(string(spec), func(t *testing.T) {
				material := randomOf(t, h.Size())
				r.imports(t, spec, backends.GenerateVerifyMAC, material, func(t *testing.T, key backends.Key, _ []byte) {
					answer, err := b.GenerateMAC(t.Context(), &backends.MACRequest{
						Key: key, Algorithm: backends.Algorithm("HMAC_SHA_" + strings.TrimPrefix(string(spec), "HMAC_")), Message: []byte("text"),
					})
					if err != nil {
						t.Fatal(err)
					}
					mac := hmac.New(h.New, material)
					mac.Write([]byte("text"))
					if !hmac.Equal(mac.Sum(nil), answer.MAC) {
						t.Error("Go computes another HMAC")
					}
				})
				// What padding with zeros would make of shorter material.
				bad := map[string][]byte{}
				for _, n := range []int{16, h.Size() - 8, h.Size() - 4, h.Size() - 1, h.Size() + 1, h.Size() + 8} {
					bad[fmt.Sprint(n)] = randomOf(t, n)
				}
				r.refusals(t, spec, backends.GenerateVerifyMAC, material, bad)
			})
		}
	})
}

// pkcs8 is the PKCS #8 form that openssl makes of a fresh key.
func pkcs8(t testing.TB, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	pem, der := filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.der")
	openssl(t, append(append([]string{"genpkey"}, args...), "-out", pem)...)
	openssl(t, "pkcs8", "-topk8", "-nocrypt", "-inform", "PEM", "-in", pem, "-outform", "DER", "-out", der)
	return readFile(t, der)
}

// opensslPublic is the public key of a PKCS #8 private key.
func opensslPublic(t testing.TB, private []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "key.der"), filepath.Join(dir, "public.der")
	if err := os.WriteFile(in, private, 0o600); err != nil {
		t.Fatal(err)
	}
	openssl(t, "pkey", "-inform", "DER", "-in", in, "-pubout", "-outform", "DER", "-out", out)
	return readFile(t, out)
}

var pkcs8Args = map[backends.KeySpec][]string{
	backends.RSA2048:   {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
	backends.RSA3072:   {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"},
	backends.P256:      {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
	backends.P384:      {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
	backends.P521:      {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"},
	backends.Secp256k1: {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"},
	backends.Ed25519:   {"-algorithm", "ED25519"},
}

var firstAlgorithm = map[backends.KeySpec]backends.Algorithm{
	backends.RSA2048: "RSASSA_PSS_SHA_256", backends.RSA3072: "RSASSA_PKCS1_V1_5_SHA_512", backends.P256: "ECDSA_SHA_256",
	backends.P384: "ECDSA_SHA_384", backends.P521: "ECDSA_SHA_512", backends.Secp256k1: "ECDSA_SHA_256", backends.Ed25519: "ED25519_SHA_512",
}

func TestImportAsymmetric(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b, err := pkcs11.NewAsymmetric(t.Context(), open(t, tok))
		if err != nil {
			t.Fatal(err)
		}
		r := newImportRig(tok, b)
		material := map[backends.KeySpec][]byte{}
		for spec, args := range pkcs8Args {
			material[spec] = pkcs8(t, args...)
		}
		for spec, private := range material {
			public := opensslPublic(t, private)
			t.Run(string(spec)+"/sign", func(t *testing.T) {
				r.imports(t, spec, backends.SignVerify, private, func(t *testing.T, key backends.Key, got []byte) {
					if !bytes.Equal(got, public) {
						t.Errorf("the public key is\n%x, not\n%x", got, public)
					}
					signVerify(t, b, key, firstAlgorithm[spec])
				})
			})
		}
		t.Run("RSA_2048/decrypt", func(t *testing.T) {
			private, err := x509.ParsePKCS8PrivateKey(material[backends.RSA2048])
			if err != nil {
				t.Fatal(err)
			}
			r.imports(t, backends.RSA2048, backends.EncryptDecrypt, material[backends.RSA2048], func(t *testing.T, key backends.Key, _ []byte) {
				for _, algorithm := range []backends.Algorithm{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"} {
					sealed := encryptOAEP(t, &private.(*rsa.PrivateKey).PublicKey, algorithm, []byte("text"))
					answer, err := b.Decrypt(t.Context(), &backends.DecryptRequest{Key: key, Algorithm: algorithm, Sealed: backends.Sealed{Ciphertext: sealed}})
					if err != nil || string(answer.Plaintext) != "text" {
						t.Errorf("%s: %v", algorithm, err)
					}
				}
			})
		})
		t.Run("P-384/agree", func(t *testing.T) {
			private, err := x509.ParsePKCS8PrivateKey(material[backends.P384])
			if err != nil {
				t.Fatal(err)
			}
			ours, err := private.(*ecdsa.PrivateKey).ECDH()
			if err != nil {
				t.Fatal(err)
			}
			r.imports(t, backends.P384, backends.KeyAgreement, material[backends.P384], func(t *testing.T, key backends.Key, public []byte) {
				if !bytes.Equal(public, opensslPublic(t, material[backends.P384])) {
					t.Error("the public key is another's")
				}
				peer, err := ecdh.P384().GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				want, err := ours.ECDH(peer.PublicKey())
				if err != nil {
					t.Fatal(err)
				}
				answer, err := b.DeriveSharedSecret(t.Context(), &backends.DeriveSharedSecretRequest{Key: key, PublicKey: backendstest.PublicDER(t, peer.PublicKey())})
				if err != nil || !bytes.Equal(answer.SharedSecret, want) {
					t.Errorf("Go agrees on another secret: %v", err)
				}
			})
		})
		r.asymmetricRefusals(t, material)
	})
}

func (r *importRig) asymmetricRefusals(t *testing.T, material map[backends.KeySpec][]byte) {
	zero := sec1(t, elliptic.P256(), make([]byte, 32))
	order := sec1(t, elliptic.P256(), elliptic.P256().Params().N.Bytes())
	p256 := material[backends.P256]
	bad := map[string][]byte{
		"another curve":           material[backends.P384],
		"secp256k1":               material[backends.Secp256k1],
		"an Ed25519 key":          material[backends.Ed25519],
		"an RSA key":              material[backends.RSA2048],
		"not DER":                 randomOf(t, 138),
		"cut DER":                 p256[:len(p256)-20],
		"a private number of 0":   zero,
		"a private number of n":   order,
		"a public key":            opensslPublic(t, p256),
		"an empty sequence":       append([]byte{0x30, 0}, make([]byte, 14)...),
		"another sequence":        append([]byte{0x30, 14}, randomOf(t, 14)...),
		"only a raw number":       randomOf(t, 32),
		"the traditional form":    traditional(t, p256),
		"an explicit other curve": bytes.ReplaceAll(p256, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1}),
	}
	t.Run("P-256/refusals", func(t *testing.T) { r.refusals(t, backends.P256, backends.SignVerify, p256, bad) })
	t.Run("P-256/agree/refusals", func(t *testing.T) { r.refusals(t, backends.P256, backends.KeyAgreement, p256, bad) })
	delete(bad, "an Ed25519 key")
	bad["P-256"] = p256
	t.Run("Ed25519/refusals", func(t *testing.T) {
		r.refusals(t, backends.Ed25519, backends.SignVerify, material[backends.Ed25519], bad)
	})
	delete(bad, "an RSA key")
	bad["another size"] = material[backends.RSA3072]
	maps.Copy(bad, damaged(t, material[backends.RSA2048]))
	near, err := rand.Prime(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	bad["neighbouring primes"] = rsaOf(t, near, primeFrom(new(big.Int).Add(near, big.NewInt(2))), big.NewInt(65537))
	for _, e := range []int64{0, 1, 2, 65536} {
		bad[fmt.Sprintf("an exponent of %d", e)] = rsaOf(t, primeFor(t, 3), primeFor(t, 3), big.NewInt(e))
	}
	for _, e := range []int64{3, 1<<31 + 11, 1<<33 + 17} { // primes
		bad[fmt.Sprintf("an exponent of %d", e)] = rsaOf(t, primeFor(t, e), primeFor(t, e), big.NewInt(e))
	}
	long := primeFrom(new(big.Int).Add(new(big.Int).Lsh(big.NewInt(3), 160), big.NewInt(1)))
	bad["an exponent of 162 bits"] = rsaOf(t, primeFor(t, 3), primeFor(t, 3), long)
	for _, usage := range []backends.Usage{backends.SignVerify, backends.EncryptDecrypt} {
		t.Run("RSA_2048/refusals/"+string(usage), func(t *testing.T) {
			r.refusals(t, backends.RSA2048, usage, material[backends.RSA2048], bad)
		})
	}
}

// sec1 is a PKCS #8 form of a private number that need not be one.
func sec1(t testing.TB, curve elliptic.Curve, number []byte) []byte {
	t.Helper()
	good, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(good)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := good.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(der, raw, number, 1)
}

func traditional(t testing.TB, der []byte) []byte {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// damaged are RSA keys of which one number or more is not that of the key: OpenSSL makes
// right signatures with most of them, from the numbers that are right.
func damaged(t testing.TB, der []byte) map[string][]byte {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	k := key.(*rsa.PrivateKey)
	c := k.Precomputed
	out := map[string][]byte{}
	for name, numbers := range map[string][]*big.Int{
		"another modulus":                     {k.N},
		"another private exponent":            {k.D},
		"another first prime":                 {k.Primes[0]},
		"another second prime":                {k.Primes[1]},
		"another first exponent":              {c.Dp},
		"another second exponent":             {c.Dq},
		"another coefficient":                 {c.Qinv},
		"exponents of another key":            {c.Dp, c.Dq, c.Qinv},
		"another private exponent and others": {k.D, c.Dp, c.Dq, c.Qinv},
	} {
		changed := bytes.Clone(der)
		for _, n := range numbers {
			at := bytes.Index(changed, n.Bytes())
			changed[at+len(n.Bytes())/2] ^= 4
		}
		out[name] = changed
	}
	return out
}

// rsaOf is the RSA key of two primes and a public exponent, as PKCS #8: the
// standard library refuses to encode a weak one.
func rsaOf(t testing.TB, p, q, e *big.Int) []byte {
	t.Helper()
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	d := new(big.Int)
	if d.ModInverse(e, new(big.Int).Mul(p1, q1)) == nil { // some number, then
		d.Sub(p1, big.NewInt(2))
	}
	numbers, err := asn1.Marshal([]*big.Int{ // RFC 8017, appendix A.1.2
		new(big.Int), new(big.Int).Mul(p, q), e, d, p, q,
		new(big.Int).Mod(d, p1), new(big.Int).Mod(d, q1), new(big.Int).ModInverse(q, p),
	})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct { // RFC 5958
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}{0, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue}, numbers})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// primeFrom is the first prime from n on, which is odd.
func primeFrom(n *big.Int) *big.Int {
	for n = new(big.Int).Set(n); !n.ProbablyPrime(20); n.Add(n, big.NewInt(2)) {
	}
	return n
}

// primeFor is a prime of 1,024 bits that allows the public exponent e.
func primeFor(t testing.TB, e int64) *big.Int {
	t.Helper()
	for {
		p, err := rand.Prime(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		if new(big.Int).Mod(new(big.Int).Sub(p, big.NewInt(1)), big.NewInt(e)).Sign() != 0 {
			return p
		}
	}
}

func signVerify(t *testing.T, b backends.Signer, key backends.Key, algorithm backends.Algorithm) {
	t.Helper()
	message := []byte("a message")
	signed, err := b.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: algorithm, Type: backends.Raw, Message: message})
	if err != nil {
		t.Fatal(err)
	}
	verified, err := b.Verify(t.Context(), &backends.VerifyRequest{Key: key, Algorithm: algorithm, Type: backends.Raw, Message: message, Signature: signed.Signature})
	if err != nil || !verified.Valid {
		t.Errorf("its signature does not verify: %v", err)
	}
}
