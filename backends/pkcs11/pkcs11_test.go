package pkcs11_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
)

func open(t testing.TB, tok *testenv.Token) *pkcs11.Token {
	t.Helper()
	k, err := pkcs11.Open(context.Background(), pkcs11.Config{Module: tok.Module, TokenLabel: tok.Label, PINFile: tok.PINFile})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSmoke(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		ctx := t.Context()
		b := pkcs11.NewSymmetric(open(t, tok))
		info, err := b.Info(ctx, nil)
		t.Log(info, err)
		key := backends.Key{ID: backends.KeyID{1}, Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt}
		if _, err := b.CreateKey(ctx, &backends.CreateKeyRequest{Key: key, Label: "cmkd:x:1"}); err != nil {
			t.Fatal(err)
		}
		w := backends.Key{ID: backends.KeyID{2}, Spec: backends.AES256, Usage: backends.WrapDataKeys}
		if _, err := b.CreateKey(ctx, &backends.CreateKeyRequest{Key: w, Label: "cmkd:x:1"}); err != nil {
			t.Fatal(err)
		}
		rk, _ := rsa.GenerateKey(rand.Reader, 2048)
		der, _ := x509.MarshalPKIXPublicKey(&rk.PublicKey)
		r := &backends.Recipient{PublicKey: der, Algorithm: "RSAES_OAEP_SHA_1"}
		dec := func(c []byte) []byte {
			p, err := rk.Decrypt(nil, c[:256], &rsa.OAEPOptions{Hash: crypto.SHA1})
			if err != nil {
				t.Fatal(err)
			}
			if len(c) > 256 {
				k, err := subtle.NewKWP(p)
				if err != nil {
					t.Fatal(err)
				}
				if p, err = k.Unwrap(c[256:]); err != nil {
					t.Fatal(err)
				}
			}
			return p
		}
		for n := 1; n <= 1024; n++ {
			g, err := b.GenerateDataKey(ctx, &backends.GenerateDataKeyRequest{Key: key, Wrapping: w, Length: n, Recipient: r, Plaintext: n%2 == 0})
			if err != nil {
				t.Errorf("%d: generate %v", n, err)
				continue
			}
			p := string(dec(g.ForRecipient))
			if len(p) != n || n%2 == 0 && p != string(g.Plaintext) {
				t.Errorf("%d: wrong", n)
			}
			o, err := b.OpenDataKey(ctx, &backends.OpenDataKeyRequest{Key: key, Sealed: g.Sealed, Recipient: r, Plaintext: n%3 == 0})
			if err != nil {
				t.Errorf("%d: open %v", n, err)
				continue
			}
			if p != string(dec(o.ForRecipient)) || n%3 == 0 && p != string(o.Plaintext) {
				t.Errorf("%d: wrong open", n)
			}
		}
		for _, spec := range []backends.KeySpec{"RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"} {
			g, err := b.GenerateDataKeyPair(ctx, &backends.GenerateDataKeyPairRequest{Key: key, Wrapping: w, Spec: spec, Recipient: r, Plaintext: true})
			if err != nil {
				t.Errorf("%s: generate %v", spec, err)
				continue
			}
			k, err := x509.ParsePKCS8PrivateKey(g.Plaintext)
			t.Logf("%s %T %v %x", spec, k, err, g.Plaintext[:min(len(g.Plaintext), 200)])
			if p := dec(g.ForRecipient); string(p) != string(g.Plaintext) {
				t.Errorf("%s: differ %x", spec, p)
			}
			o, err := b.OpenDataKey(ctx, &backends.OpenDataKeyRequest{Key: key, Sealed: g.Sealed, Recipient: r, Plaintext: true, Pair: true})
			if err != nil {
				t.Errorf("%s: open %v", spec, err)
				continue
			}
			if string(o.Plaintext) != string(g.Plaintext) {
				t.Errorf("%s: open differs", spec)
			}
			if p := dec(o.ForRecipient); string(p) != string(g.Plaintext) {
				t.Errorf("%s: open differ %x", spec, p)
			}
		}
		info, err = b.Info(ctx, nil)
		t.Log(info.Token, err)
		t.Log(b.Close())
	})
}
