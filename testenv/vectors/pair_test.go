package vectors

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"testing"

	"cmkd/backends"
	"cmkd/testenv"
)

var rsaSpecs = map[int]backends.KeySpec{2048: backends.RSA2048, 3072: backends.RSA3072, 4096: backends.RSA4096}

// TestOAEP: RSA-OAEP opens what is valid, and nothing else.
func TestOAEP(t *testing.T) {
	t.Parallel()
	r := start(t, "asymmetric", testenv.NewToken(t))
	for _, name := range []string{
		"rsa_oaep_2048_sha1_mgf1sha1", "rsa_oaep_2048_sha256_mgf1sha256",
		"rsa_oaep_3072_sha256_mgf1sha256", "rsa_oaep_4096_sha256_mgf1sha256",
	} {
		for _, g := range load(t, name).Groups {
			key := r.imported(t, rsaSpecs[g.KeySize], backends.EncryptDecrypt, g.PrivateKeyPkcs8)
			algorithm := map[string]backends.Algorithm{"SHA-1": "RSAES_OAEP_SHA_1", "SHA-256": "RSAES_OAEP_SHA_256"}[g.Sha]
			for _, v := range g.Tests {
				opened, err := r.Decrypt(t.Context(), &backends.DecryptRequest{
					Key: key, Algorithm: algorithm, Sealed: backends.Sealed{Ciphertext: v.Ct},
				})
				switch {
				case err == nil:
					r.judge(t, name, &v, bytes.Equal(opened.Plaintext, v.Msg), nil)
				case backends.CodeOf(err) != backends.InvalidCiphertext:
					r.fail(t, name, &v, err)
				case v.Result == "valid" && len(v.Label) > 0:
					r.refuse("there are no labels")
				default:
					r.judge(t, name, &v, false, err)
				}
			}
			r.drop(t, key)
		}
	}
	r.report(t, 80)
}

// privateKeys are the RSA keys of the files whose private halves are
// published, by their moduli. Other files have the public ones alone.
func privateKeys(t testing.TB) map[string][]byte {
	t.Helper()
	keys := map[string][]byte{}
	for _, name := range []string{
		"rsa_oaep_2048_sha1_mgf1sha1", "rsa_oaep_2048_sha256_mgf1sha256", "rsa_oaep_3072_sha256_mgf1sha256", "rsa_oaep_4096_sha256_mgf1sha256",
		"rsa_pkcs1_2048_sig_gen", "rsa_pkcs1_3072_sig_gen", "rsa_pkcs1_4096_sig_gen",
		"rsa_pkcs1_2048", "rsa_pkcs1_3072", "rsa_pkcs1_4096", "rsa_oaep_misc",
	} {
		for _, g := range load(t, name).Groups {
			if k, err := x509.ParsePKCS8PrivateKey(g.PrivateKeyPkcs8); err == nil {
				keys[k.(*rsa.PrivateKey).N.Text(16)] = g.PrivateKeyPkcs8
			}
		}
	}
	return keys
}

// TestRSASignatures: PKCS #1 v1.5, and PSS with salts as long as the hash.
func TestRSASignatures(t *testing.T) {
	t.Parallel()
	r := start(t, "asymmetric", testenv.NewToken(t))
	private := privateKeys(t)
	algorithms := map[string][2]backends.Algorithm{
		"SHA-256": {"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PSS_SHA_256"},
		"SHA-384": {"RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PSS_SHA_384"},
		"SHA-512": {"RSASSA_PKCS1_V1_5_SHA_512", "RSASSA_PSS_SHA_512"},
	}
	for _, name := range []string{
		"rsa_signature_2048_sha256", "rsa_signature_2048_sha384", "rsa_signature_2048_sha512",
		"rsa_signature_3072_sha256", "rsa_signature_3072_sha384", "rsa_signature_3072_sha512",
		"rsa_signature_4096_sha256", "rsa_signature_4096_sha384", "rsa_signature_4096_sha512",
		"rsa_pss_2048_sha256_mgf1_32", "rsa_pss_2048_sha384_mgf1_48", "rsa_pss_3072_sha256_mgf1_32",
		"rsa_pss_4096_sha256_mgf1_32", "rsa_pss_4096_sha384_mgf1_48", "rsa_pss_4096_sha512_mgf1_64",
		"rsa_pss_2048_sha256_mgf1_0", "rsa_pss_2048_sha256_mgf1sha1_20", "rsa_pss_4096_sha512_mgf1_32",
	} {
		for _, g := range load(t, name).Groups {
			public, err := x509.ParsePKIXPublicKey(g.PublicKeyDer)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			secret, ok := private[public.(*rsa.PublicKey).N.Text(16)]
			if small := public.(*rsa.PublicKey).E < 65537; small || !ok {
				for range g.Tests {
					r.refuse("the exponent is at least 65537, the private key published")
				}
				continue
			}
			key := r.imported(t, rsaSpecs[g.KeySize], backends.SignVerify, secret)
			algorithm := algorithms[g.Sha][0]
			pss := g.MgfSha != ""
			if pss {
				algorithm = algorithms[g.Sha][1]
			}
			hash := map[string]int{"SHA-256": 32, "SHA-384": 48, "SHA-512": 64}[g.Sha]
			foreign := pss && (g.MgfSha != g.Sha || g.SLen != hash)
			for _, v := range g.Tests {
				answer, err := r.Verify(t.Context(), &backends.VerifyRequest{
					Key: key, Algorithm: algorithm, Type: backends.Raw, Message: v.Msg, Signature: v.Sig,
				})
				ok := err == nil && answer.Valid
				switch {
				case foreign && err == nil && !ok && v.Result == "valid":
					r.refuse("salts are as long as the hash, which is that of MGF1")
				case foreign && ok && v.Comment == fmt.Sprintf("s_len changed to %d", hash):
					r.right++ // not of its file's kind, but of ours
				default:
					r.judge(t, name, &v, ok, err)
				}
			}
			r.drop(t, key)
		}
	}
	r.report(t, 2000)
}

// TestECDH: shared secrets with points that are on the curve, in the one form
// of a public key that there is.
func TestECDH(t *testing.T) {
	t.Parallel()
	r := start(t, "asymmetric", testenv.NewToken(t))
	for _, c := range []struct {
		name  string
		spec  backends.KeySpec
		curve elliptic.Curve
	}{
		{"ecdh_secp256r1", backends.P256, elliptic.P256()},
		{"ecdh_secp384r1", backends.P384, elliptic.P384()},
		{"ecdh_secp521r1", backends.P521, elliptic.P521()},
	} {
		keys := map[string]backends.Key{}
		for _, g := range load(t, c.name).Groups {
			for _, v := range g.Tests {
				key, ok := keys[v.Private]
				if !ok {
					key = r.imported(t, c.spec, backends.KeyAgreement, pkcs8(t, c.curve, v.Private))
					keys[v.Private] = key
				}
				answer, err := r.DeriveSharedSecret(t.Context(), &backends.DeriveSharedSecretRequest{Key: key, PublicKey: v.Public})
				switch {
				case err == nil:
					r.judge(t, c.name, &v, bytes.Equal(answer.SharedSecret, v.Shared), nil)
				case backends.CodeOf(err) != backends.InvalidRequest:
					r.fail(t, c.name, &v, err)
				default:
					r.judge(t, c.name, &v, false, err)
				}
			}
		}
		for _, key := range keys {
			r.drop(t, key)
		}
	}
	r.report(t, 1500)
}

// pkcs8 is the PKCS #8 form of a private number in hexadecimal.
func pkcs8(t testing.TB, curve elliptic.Curve, number string) []byte {
	t.Helper()
	d, ok := new(big.Int).SetString(number, 16)
	if !ok {
		t.Fatalf("%q is not a number", number)
	}
	k, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, (curve.Params().BitSize+7)/8)))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
