package backendstest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"cmkd/backends"
)

// RunRSA runs the part of the suite that is about RSA keys that decrypt.
func RunRSA(t *testing.T, rig Rig) {
	s := &suite{rig: rig}
	s.rsaCipher(t, s.open(t))
}

// rsaCipher encrypts and decrypts with RSA keys of each length.
func (s *suite) rsaCipher(t *testing.T, backend backends.Backend) {
	for _, kind := range s.kinds(t, backend) {
		if kind.Usage != backends.EncryptDecrypt || quick(kind.Spec) {
			continue
		}
		t.Run(string(kind.Spec), func(t *testing.T) {
			d := &rsaSuite{b: backend.(backends.Cipher), key: create(t, backend, kind)}
			checked, err := backend.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: d.key})
			if err != nil {
				t.Fatal(err)
			}
			public, err := x509.ParsePKIXPublicKey(checked.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			d.public = public.(*rsa.PublicKey)
			for algorithm := range oaepHashes {
				t.Run(string(algorithm), func(t *testing.T) { d.oaep(t, algorithm) })
				t.Run(string(algorithm)+"/alterations", func(t *testing.T) { d.alterations(t, algorithm) })
			}
			for _, algorithm := range []backends.Algorithm{symmetricDefault, "RSAES_PKCS1_V1_5", ""} {
				_, err := d.b.Encrypt(t.Context(), &backends.EncryptRequest{Key: d.key, Algorithm: algorithm, Plaintext: []byte("x")})
				wantCode(t, "encrypting with "+string(algorithm), err, backends.InvalidRequest)
				_, err = d.decrypt(t, algorithm, make([]byte, d.public.Size()))
				wantCode(t, "decrypting with "+string(algorithm), err, backends.InvalidRequest)
			}
		})
	}
}

type rsaSuite struct {
	b      backends.Cipher
	key    backends.Key
	public *rsa.PublicKey
}

func (d *rsaSuite) decrypt(t testing.TB, algorithm backends.Algorithm, ciphertext []byte) ([]byte, error) {
	t.Helper()
	answer, err := d.b.Decrypt(t.Context(), &backends.DecryptRequest{
		Key: d.key, Algorithm: algorithm, Sealed: backends.Sealed{Ciphertext: ciphertext},
	})
	if err != nil {
		return nil, err
	}
	return answer.Plaintext, nil
}

func (d *rsaSuite) oaep(t *testing.T, algorithm backends.Algorithm) {
	h := oaepHashes[algorithm]
	most := d.public.Size() - 2*h.Size() - 2
	for _, n := range []int{1, 16, 100, most - 1, most} {
		plaintext := randomBytes(t, n)
		sealed, err := d.b.Encrypt(t.Context(), &backends.EncryptRequest{Key: d.key, Algorithm: algorithm, Plaintext: plaintext})
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed.Sealed.IV) != 0 || len(sealed.Sealed.Ciphertext) != d.public.Size() {
			t.Errorf("a ciphertext of %d bytes", len(sealed.Sealed.Ciphertext))
		}
		outside, err := rsa.EncryptOAEP(h.New(), rand.Reader, d.public, plaintext, nil)
		if err != nil {
			t.Fatal(err)
		}
		for by, ciphertext := range map[string][]byte{"the backend": sealed.Sealed.Ciphertext, "Go": outside} {
			if got, err := d.decrypt(t, algorithm, ciphertext); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes encrypted by %s do not come back: %v", n, by, err)
			}
		}
		toRecipients(t, func(r *backends.Recipient) ([]byte, error) {
			answer, err := d.b.Decrypt(t.Context(), &backends.DecryptRequest{
				Key: d.key, Algorithm: algorithm, Sealed: sealed.Sealed, Recipient: r,
			})
			if err != nil {
				return nil, err
			}
			if answer.Plaintext != nil {
				t.Error("the caller got the plaintext, too")
			}
			return answer.ForRecipient, nil
		}, plaintext)
	}
	_, err := d.b.Encrypt(t.Context(), &backends.EncryptRequest{Key: d.key, Algorithm: algorithm, Plaintext: make([]byte, most+1)})
	wantCode(t, "a byte too many", err, backends.InvalidRequest)
	_, err = d.b.Encrypt(t.Context(), &backends.EncryptRequest{Key: d.key, Algorithm: algorithm, Plaintext: []byte("x"), AAD: []byte("x")})
	wantCode(t, "with AAD", err, backends.InvalidRequest)
}

// alterations: all answers are the same, so that none tells what was wrong.
func (d *rsaSuite) alterations(t *testing.T, algorithm backends.Algorithm) {
	h := oaepHashes[algorithm]
	good, err := rsa.EncryptOAEP(h.New(), rand.Reader, d.public, []byte("plaintext"), nil)
	if err != nil {
		t.Fatal(err)
	}
	labelled, err := rsa.EncryptOAEP(h.New(), rand.Reader, d.public, []byte("plaintext"), []byte("label"))
	if err != nil {
		t.Fatal(err)
	}
	size := d.public.Size()
	power := func(m []byte) []byte { // what m is the padded form of
		c := new(big.Int).Exp(new(big.Int).SetBytes(m), big.NewInt(int64(d.public.E)), d.public.N)
		return c.FillBytes(make([]byte, size))
	}
	short := make([]byte, size)
	copy(short[size-20:], "hardly any padding..")
	// Manger: a padded message whose first byte is not 0.
	large := new(big.Int).Sub(d.public.N, big.NewInt(2)).FillBytes(make([]byte, size))
	n := d.public.N
	cases := map[string][]byte{
		"empty": nil, "one byte": {1}, "cut": good[:size-1], "longer": append(bytes.Clone(good), 0),
		"a leading zero": append([]byte{0}, good...), "0": make([]byte, size), "1": power(append(make([]byte, size-1), 1)),
		"the modulus": n.FillBytes(make([]byte, size)), "the modulus less 1": new(big.Int).Sub(n, big.NewInt(1)).FillBytes(make([]byte, size)),
		"all ones": bytes.Repeat([]byte{0xff}, size), "random": power(append([]byte{0}, randomBytes(t, size-1)...)),
		"hardly any padding": power(short), "first byte not 0": power(large), "another label": labelled,
	}
	for other, o := range oaepHashes {
		if other != algorithm {
			if cases["another hash"], err = rsa.EncryptOAEP(o.New(), rand.Reader, d.public, []byte("plaintext"), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := 0; i < size; i += size / 16 {
		c := bytes.Clone(good)
		c[i] ^= 1
		cases[fmt.Sprintf("byte %d", i)] = c
	}
	var first *backends.Error
	for name, ciphertext := range cases {
		_, err := d.decrypt(t, algorithm, ciphertext)
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
	for name, in := range map[string]*backends.DecryptRequest{
		"an IV": {Sealed: backends.Sealed{IV: make([]byte, ivLength), Ciphertext: good}},
		"AAD":   {Sealed: backends.Sealed{Ciphertext: good}, AAD: []byte("x")},
	} {
		in.Key, in.Algorithm = d.key, algorithm
		_, err := d.b.Decrypt(t.Context(), in)
		wantCode(t, "with "+name, err, backends.InvalidCiphertext)
	}
	if got, err := d.decrypt(t, algorithm, good); err != nil || string(got) != "plaintext" {
		t.Errorf("the good one, afterwards: %v", err)
	}
}
