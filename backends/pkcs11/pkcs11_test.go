package pkcs11_test

import (
	"context"
	"testing"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
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
		e, err := b.Encrypt(ctx, &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("hello"), AAD: []byte("a")})
		if err != nil {
			t.Fatal(err)
		}
		d, err := b.Decrypt(ctx, &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: e.Sealed, AAD: []byte("a")})
		t.Log(d, err)
		d, err = b.Decrypt(ctx, &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: e.Sealed, AAD: []byte("b")})
		t.Log(d, err)
		w := backends.Key{ID: backends.KeyID{2}, Spec: backends.AES256, Usage: backends.WrapDataKeys}
		if _, err := b.CreateKey(ctx, &backends.CreateKeyRequest{Key: w, Label: "cmkd:x:1"}); err != nil {
			t.Fatal(err)
		}
		l, err := b.ListKeys(ctx, nil)
		t.Log(l, err)
		x, err := b.DestroyKey(ctx, &backends.DestroyKeyRequest{Key: key})
		t.Log(x, err)
		x, err = b.DestroyKey(ctx, &backends.DestroyKeyRequest{Key: key})
		t.Log(x, err)
		_, err = b.Encrypt(ctx, &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("hello"), AAD: []byte("a")})
		t.Log(err)
		t.Log(b.Close())
	})
}
