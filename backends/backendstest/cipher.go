package backendstest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"cmkd/backends"
)

const (
	symmetricDefault backends.Algorithm = "SYMMETRIC_DEFAULT"

	ivLength, tagLength = 12, 16
)

var symmetric = backends.Key{Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt}

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func seal(t testing.TB, b backends.Cipher, key backends.Key, plaintext, aad []byte) backends.Sealed {
	t.Helper()
	answer, err := b.Encrypt(t.Context(), &backends.EncryptRequest{
		Key: key, Algorithm: symmetricDefault, Plaintext: plaintext, AAD: aad,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Sealed.IV) != ivLength || len(answer.Sealed.Ciphertext) != len(plaintext)+tagLength {
		t.Fatalf("an IV of %d bytes and a ciphertext of %d for %d bytes", len(answer.Sealed.IV), len(answer.Sealed.Ciphertext), len(plaintext))
	}
	return answer.Sealed
}

func unseal(t testing.TB, b backends.Cipher, key backends.Key, sealed backends.Sealed, aad []byte) ([]byte, error) {
	t.Helper()
	answer, err := b.Decrypt(t.Context(), &backends.DecryptRequest{
		Key: key, Algorithm: symmetricDefault, Sealed: sealed, AAD: aad,
	})
	if err != nil {
		return nil, err
	}
	return answer.Plaintext, nil
}

func (s *suite) cipher(t *testing.T, backend backends.Backend) {
	b := backend.(backends.Cipher)
	key, other := create(t, backend, symmetric), create(t, backend, symmetric)
	t.Run("lengths", func(t *testing.T) {
		for _, n := range []int{1, 15, 16, 17, 32, 1023, 4095, 4096} {
			plaintext, aad := randomBytes(t, n), randomBytes(t, n%64)
			got, err := unseal(t, b, key, seal(t, b, key, plaintext, aad), aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes do not come back: %v", n, err)
			}
		}
	})
	t.Run("IVs differ", func(t *testing.T) {
		seen := make(map[[ivLength]byte]bool)
		for range 500 { // more than come from one call to the token
			iv := [ivLength]byte(seal(t, b, key, []byte("the same"), nil).IV)
			if seen[iv] || iv == [ivLength]byte{} {
				t.Fatalf("IV %x", iv)
			}
			seen[iv] = true
		}
	})
	t.Run("alterations", func(t *testing.T) { alterations(t, b, key, other) })
	t.Run("known key", func(t *testing.T) { s.knownCipher(t, b) })
	t.Run("recipient", func(t *testing.T) {
		plaintext := randomBytes(t, 4096)
		for _, n := range []int{1, 190, 191, 4096} {
			sealed := seal(t, b, key, plaintext[:n], nil)
			toRecipients(t, func(r *backends.Recipient) ([]byte, error) {
				answer, err := b.Decrypt(t.Context(), &backends.DecryptRequest{
					Key: key, Algorithm: symmetricDefault, Sealed: sealed, Recipient: r,
				})
				if err != nil {
					return nil, err
				}
				if answer.Plaintext != nil {
					t.Error("the caller got the plaintext, too")
				}
				return answer.ForRecipient, nil
			}, plaintext[:n])
		}
	})
	t.Run("algorithm", func(t *testing.T) {
		_, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "RSAES_OAEP_SHA_1", Plaintext: []byte("x")})
		wantCode(t, "encrypting with an RSA algorithm", err, backends.InvalidRequest)
	})
	if _, ok := backend.(backends.ReEncrypter); ok {
		t.Run("ReEncrypt", func(t *testing.T) { reEncrypt(t, backend, key, other) })
	}
}

// alterations changes everything that a ciphertext depends on. All answers
// must be the same, so that none tells where the alteration was.
func alterations(t *testing.T, b backends.Cipher, key, other backends.Key) {
	aad := []byte("the context")
	good := seal(t, b, key, randomBytes(t, 20), aad)
	type altered struct {
		key    backends.Key
		sealed backends.Sealed
		aad    []byte
	}
	cases := map[string]altered{
		"another key":    {other, good, aad},
		"other AAD":      {key, good, []byte("the contexT")},
		"no AAD":         {key, good, nil},
		"longer AAD":     {key, good, append(slices.Clone(aad), 0)},
		"no ciphertext":  {key, backends.Sealed{IV: good.IV}, aad},
		"no IV":          {key, backends.Sealed{Ciphertext: good.Ciphertext}, aad},
		"short IV":       {key, backends.Sealed{IV: good.IV[:11], Ciphertext: good.Ciphertext}, aad},
		"long IV":        {key, backends.Sealed{IV: append(slices.Clone(good.IV), 0), Ciphertext: good.Ciphertext}, aad},
		"half a tag":     {key, backends.Sealed{IV: good.IV, Ciphertext: good.Ciphertext[:8]}, aad},
		"tag only":       {key, backends.Sealed{IV: good.IV, Ciphertext: good.Ciphertext[len(good.Ciphertext)-tagLength:]}, aad},
		"a byte more":    {key, backends.Sealed{IV: good.IV, Ciphertext: append(slices.Clone(good.Ciphertext), 0)}, aad},
		"a byte less":    {key, backends.Sealed{IV: good.IV, Ciphertext: good.Ciphertext[:len(good.Ciphertext)-1]}, aad},
		"random":         {key, backends.Sealed{IV: randomBytes(t, ivLength), Ciphertext: randomBytes(t, 64)}, aad},
		"another length": {key, backends.Sealed{IV: good.IV, Ciphertext: good.Ciphertext[1:]}, aad},
	}
	flip := func(name string, of []byte, with func([]byte) backends.Sealed) {
		for i := range of {
			changed := slices.Clone(of)
			changed[i] ^= 1 << (i % 8)
			cases[name+" byte "+string(rune('0'+i%10))+"/"+string(rune('0'+i/10))] = altered{key, with(changed), aad}
		}
	}
	flip("IV", good.IV, func(c []byte) backends.Sealed { return backends.Sealed{IV: c, Ciphertext: good.Ciphertext} })
	flip("ciphertext", good.Ciphertext, func(c []byte) backends.Sealed { return backends.Sealed{IV: good.IV, Ciphertext: c} })
	var first *backends.Error
	for name, c := range cases {
		_, err := unseal(t, b, c.key, c.sealed, c.aad)
		wantCode(t, name, err, backends.InvalidCiphertext)
		e, ok := errors.AsType[*backends.Error](err)
		if !ok {
			t.Fatalf("%s: %T is no backends.Error", name, err)
		}
		if first == nil {
			first = e
		}
		if *e != *first {
			t.Errorf("%s: the answer %v differs from %v", name, e, first)
		}
	}
	if _, err := unseal(t, b, key, good, aad); err != nil {
		t.Errorf("the good one, afterwards: %v", err)
	}
}

// knownCipher checks the token's ciphertexts against Go's AES-GCM.
func (s *suite) knownCipher(t *testing.T, b backends.Cipher) {
	if s.rig.Inject == nil {
		t.Log("this rig cannot inject keys")
		return
	}
	key := symmetric
	key.ID, key.Imported = newID(), true
	value := randomBytes(t, 32)
	s.rig.Inject(t, key, value)
	block, err := aes.NewCipher(value)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plaintext, aad := randomBytes(t, 100), randomBytes(t, 30)
	sealed := seal(t, b, key, plaintext, aad)
	if got, err := gcm.Open(nil, sealed.IV, sealed.Ciphertext, aad); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("Go does not decrypt it: %v", err)
	}
	iv := randomBytes(t, ivLength)
	got, err := unseal(t, b, key, backends.Sealed{IV: iv, Ciphertext: gcm.Seal(nil, iv, plaintext, aad)}, aad)
	if err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("what Go encrypted is not decrypted: %v", err)
	}
}

func reEncrypt(t *testing.T, backend backends.Backend, from, to backends.Key) {
	b, c := backend.(backends.ReEncrypter), backend.(backends.Cipher)
	plaintext := randomBytes(t, 500)
	sealed := seal(t, c, from, plaintext, []byte("source"))
	request := &backends.ReEncryptRequest{
		Source: from, Sealed: sealed, SourceAAD: []byte("source"),
		Destination: to, DestinationAAD: []byte("destination"),
	}
	answer, err := b.ReEncrypt(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	got, err := unseal(t, c, to, answer.Sealed, []byte("destination"))
	if err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("it does not come back: %v", err)
	}
	request.SourceAAD = nil
	_, err = b.ReEncrypt(t.Context(), request)
	wantCode(t, "another AAD", err, backends.InvalidCiphertext)
	request.SourceAAD, request.Destination.ID = []byte("source"), newID()
	_, err = b.ReEncrypt(t.Context(), request)
	wantCode(t, "to a key that is missing", err, backends.KeyMissing)
}
