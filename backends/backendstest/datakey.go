package backendstest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"cmkd/backends"
)

// wrapping is the kind of the data-key wrapping key.
var wrapping = backends.Key{Spec: backends.AES256, Usage: backends.WrapDataKeys}

func (s *suite) dataKeys(t *testing.T, backend backends.Backend) {
	d := newDataKeySuite(t, backend)
	d.few = s.rig.Few
	t.Run("lengths", d.lengths)
	t.Run("recipient", d.toRecipient)
	t.Run("alterations", d.alterations)
	if !s.rig.Frail {
		t.Run("poison", d.poison)
	}
	t.Run("ReEncrypt", d.reEncrypt)
	t.Run("requests", d.requests)
	for _, spec := range []backends.KeySpec{
		backends.RSA2048, backends.RSA3072, backends.P256, backends.P384, backends.P521, backends.Secp256k1, backends.Ed25519,
	} {
		t.Run(string(spec), func(t *testing.T) { d.pair(t, spec) })
	}
}

type dataKeySuite struct {
	backend       backends.Backend
	b             backends.DataKeyMaker
	key, w, other backends.Key
	few           bool // Rig.Few
}

// lacks reports whether the token refuses to make a data key of a length that it may lack.
func (d *dataKeySuite) lacks(err error, length int) bool {
	return d.few && backends.CodeOf(err) == backends.Unsupported && !slices.Contains([]int{16, 24, 32, 64}, length)
}

func newDataKeySuite(t testing.TB, backend backends.Backend) *dataKeySuite {
	t.Helper()
	return &dataKeySuite{
		backend: backend, b: backend.(backends.DataKeyMaker),
		key: create(t, backend, symmetric), w: create(t, backend, wrapping), other: create(t, backend, symmetric),
	}
}

var dataKeyAAD = []byte("data key context")

func (d *dataKeySuite) generate(t testing.TB, length int, plaintext bool, r *backends.Recipient) (*backends.GenerateDataKeyAnswer, error) {
	t.Helper()
	return d.b.GenerateDataKey(t.Context(), &backends.GenerateDataKeyRequest{
		Key: d.key, Wrapping: d.w, Length: length, AAD: dataKeyAAD, Plaintext: plaintext, Recipient: r,
	})
}

func (d *dataKeySuite) open(t testing.TB, sealed backends.Sealed, plaintext bool, r *backends.Recipient) (*backends.OpenDataKeyAnswer, error) {
	t.Helper()
	return d.b.OpenDataKey(t.Context(), &backends.OpenDataKeyRequest{
		Key: d.key, Sealed: sealed, AAD: dataKeyAAD, Plaintext: plaintext, Recipient: r,
	})
}

// lengths generates data keys of every length and opens them in the clear.
func (d *dataKeySuite) lengths(t *testing.T) {
	seen := make(map[string]bool)
	for n := 1; n <= 1024; n++ {
		made, err := d.generate(t, n, true, nil)
		if d.lacks(err, n) {
			continue
		}
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if len(made.Plaintext) != n || made.ForRecipient != nil {
			t.Fatalf("%d bytes: %d came", n, len(made.Plaintext))
		}
		opened, err := d.open(t, made.Sealed, true, nil)
		if err != nil || !bytes.Equal(opened.Plaintext, made.Plaintext) {
			t.Fatalf("%d bytes do not come back: %v", n, err)
		}
		if n >= 16 && seen[string(made.Plaintext[:16])] {
			t.Fatal("a data key came twice")
		}
		seen[string(made.Plaintext[:min(n, 16)])] = true
		hidden, err := d.generate(t, n, false, nil)
		if d.lacks(err, n) {
			continue
		}
		if err != nil || hidden.Plaintext != nil {
			t.Fatalf("%d bytes without plaintext: %+v, %v", n, hidden, err)
		}
		proof, err := d.open(t, hidden.Sealed, false, nil)
		if err != nil || proof.Plaintext != nil || proof.ForRecipient != nil {
			t.Fatalf("%d bytes: proving that it opens: %+v, %v", n, proof, err)
		}
		if opened, err = d.open(t, hidden.Sealed, true, nil); err != nil || len(opened.Plaintext) != n {
			t.Fatalf("%d bytes, generated hidden: %+v, %v", n, opened, err)
		}
	}
}

// toRecipient generates and opens for recipients: what comes must be exactly
// as long as asked for.
func (d *dataKeySuite) toRecipient(t *testing.T) {
	for _, n := range []int{1, 7, 8, 16, 24, 32, 33, 64, 100, 190, 256, 1024} {
		made, err := d.generate(t, n, true, nil)
		if d.lacks(err, n) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		toRecipients(t, func(r *backends.Recipient) ([]byte, error) {
			opened, err := d.open(t, made.Sealed, false, r)
			if err != nil {
				return nil, err
			}
			if opened.Plaintext != nil {
				t.Error("the caller got the plaintext, too")
			}
			return opened.ForRecipient, nil
		}, made.Plaintext)
	}
	for _, n := range []int{5, 32, 33, 1024} {
		for _, r := range recipientForms(t) {
			made, err := d.generate(t, n, true, r)
			if backends.CodeOf(err) == backends.Unsupported && !r.ThroughPlugin || d.lacks(err, n) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := openRecipient(r, made.ForRecipient)
			if err != nil || !bytes.Equal(got, made.Plaintext) {
				t.Errorf("%d bytes, %s: the recipient gets another data key than the caller: %v", n, formName(r), err)
			}
			hidden, err := d.generate(t, n, false, r)
			if d.lacks(err, n) {
				continue
			}
			if err != nil || hidden.Plaintext != nil || len(hidden.ForRecipient) == 0 {
				t.Errorf("%d bytes, %s: without plaintext: %v", n, formName(r), err)
			}
		}
	}
}

func (d *dataKeySuite) alterations(t *testing.T) {
	made, err := d.generate(t, 32, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	request := func(change func(*backends.OpenDataKeyRequest)) error {
		in := &backends.OpenDataKeyRequest{Key: d.key, AAD: dataKeyAAD, Plaintext: true, Sealed: backends.Sealed{
			IV: bytes.Clone(made.Sealed.IV), Ciphertext: bytes.Clone(made.Sealed.Ciphertext),
		}}
		change(in)
		_, err := d.b.OpenDataKey(t.Context(), in)
		return err
	}
	for i := range made.Sealed.Ciphertext {
		err := request(func(in *backends.OpenDataKeyRequest) { in.Sealed.Ciphertext[i] ^= 0x80 })
		wantCode(t, fmt.Sprintf("ciphertext byte %d", i), err, backends.InvalidCiphertext)
	}
	wantCode(t, "IV", request(func(in *backends.OpenDataKeyRequest) { in.Sealed.IV[0] ^= 1 }), backends.InvalidCiphertext)
	wantCode(t, "AAD", request(func(in *backends.OpenDataKeyRequest) { in.AAD = nil }), backends.InvalidCiphertext)
	wantCode(t, "another CMK", request(func(in *backends.OpenDataKeyRequest) { in.Key = d.other }), backends.InvalidCiphertext)
	wantCode(t, "as a pair", request(func(in *backends.OpenDataKeyRequest) { in.Pair = true }), backends.InvalidCiphertext)
	// A ciphertext of the same key that holds no data key.
	for _, n := range []int{1, 18, 34, 58, 200} {
		plain := seal(t, d.backend.(backends.Cipher), d.key, make([]byte, n), dataKeyAAD)
		err := request(func(in *backends.OpenDataKeyRequest) { in.Sealed = plain })
		if code := backends.CodeOf(err); code != backends.InvalidCiphertext && code != backends.KeyMissing {
			t.Errorf("a plaintext of %d bytes opened as a data key: %v", n, err)
		}
	}
}

// reEncrypt moves a sealed data key to another CMK without opening it.
func (d *dataKeySuite) reEncrypt(t *testing.T) {
	b, ok := d.backend.(backends.ReEncrypter)
	if !ok {
		t.Log("the backend is no ReEncrypter")
		return
	}
	made, err := d.generate(t, 32, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := b.ReEncrypt(t.Context(), &backends.ReEncryptRequest{
		Source: d.key, Sealed: made.Sealed, SourceAAD: dataKeyAAD, Destination: d.other, DestinationAAD: []byte("there"),
	})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := d.b.OpenDataKey(t.Context(), &backends.OpenDataKeyRequest{
		Key: d.other, Sealed: moved.Sealed, AAD: []byte("there"), Plaintext: true,
	})
	if err != nil || !bytes.Equal(opened.Plaintext, made.Plaintext) {
		t.Errorf("the data key does not come back: %v", err)
	}
}

func (d *dataKeySuite) requests(t *testing.T) {
	for _, n := range []int{-1, 0, 1025} {
		_, err := d.generate(t, n, false, nil)
		wantCode(t, fmt.Sprintf("%d bytes", n), err, backends.InvalidRequest)
	}
	in := &backends.GenerateDataKeyRequest{Key: d.key, Wrapping: d.other, Length: 32}
	_, err := d.b.GenerateDataKey(t.Context(), in)
	wantCode(t, "wrapped under a CMK", err, backends.InvalidRequest)
	in.Key, in.Wrapping = d.w, d.w
	_, err = d.b.GenerateDataKey(t.Context(), in)
	wantCode(t, "encrypted under a wrapping key", err, backends.InvalidRequest)
	in.Key, in.Wrapping.ID = d.key, newID()
	_, err = d.b.GenerateDataKey(t.Context(), in)
	wantCode(t, "wrapped under a key that is missing", err, backends.KeyMissing)
	_, err = d.b.GenerateDataKeyPair(t.Context(), &backends.GenerateDataKeyPairRequest{Key: d.key, Wrapping: d.w, Spec: backends.HMAC256})
	wantCode(t, "a pair of spec HMAC_256", err, backends.InvalidRequest)
}

// pair generates a key pair with and without plaintext.
func (d *dataKeySuite) pair(t *testing.T, spec backends.KeySpec) {
	in := &backends.GenerateDataKeyPairRequest{Key: d.key, Wrapping: d.w, Spec: spec, AAD: dataKeyAAD, Plaintext: true}
	made, err := d.b.GenerateDataKeyPair(t.Context(), in)
	// Some tokens leave out the zeros that a private number begins with: half of the
	// numbers on this curve do.
	for tries := 0; err == nil && spec == backends.P521 && !bytes.Contains(made.Plaintext, []byte{4, 66, 0}) && tries < 20; tries++ {
		made, err = d.b.GenerateDataKeyPair(t.Context(), in)
	}
	if d.few && backends.CodeOf(err) == backends.Unsupported {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	public, err := publicOf(spec, made.Plaintext)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(public, made.PublicKey) {
		t.Errorf("the private key belongs to public key\n%x, not\n%x", public, made.PublicKey)
	}
	open := &backends.OpenDataKeyRequest{Key: d.key, Sealed: made.Sealed, AAD: dataKeyAAD, Pair: true, Plaintext: true}
	opened, err := d.b.OpenDataKey(t.Context(), open)
	if err != nil || !bytes.Equal(opened.Plaintext, made.Plaintext) {
		t.Errorf("the private key does not come back: %v", err)
	}
	open.Pair = false
	_, err = d.b.OpenDataKey(t.Context(), open)
	wantCode(t, "as a secret key", err, backends.InvalidCiphertext)
	open.Pair, open.Plaintext = true, false
	for _, r := range recipientForms(t) {
		open.Recipient = r
		opened, err := d.b.OpenDataKey(t.Context(), open)
		if backends.CodeOf(err) == backends.Unsupported && !r.ThroughPlugin {
			continue
		}
		if err != nil || opened.Plaintext != nil {
			t.Fatalf("for a recipient: %+v, %v", opened, err)
		}
		got, err := openRecipient(r, opened.ForRecipient)
		if n := len(made.Plaintext); err != nil || len(got) < n || len(got) > n+7 ||
			!bytes.Equal(got[:n], made.Plaintext) || len(bytes.Trim(got[n:], "\x00")) != 0 {
			t.Errorf("%s: the recipient gets another private key: %d bytes, not %d, %v", formName(r), len(got), n, err)
		}
	}
	in.Plaintext = false
	hidden, err := d.b.GenerateDataKeyPair(t.Context(), in)
	if backends.CodeOf(err) == backends.Unsupported {
		t.Logf("without plaintext: %v", err)
		return
	}
	if err != nil || hidden.Plaintext != nil || bytes.Equal(hidden.PublicKey, made.PublicKey) {
		t.Errorf("without plaintext: %+v, %v", hidden, err)
	}
}

// publicOf returns the SubjectPublicKeyInfo of a PKCS #8 private key.
func publicOf(spec backends.KeySpec, pkcs8 []byte) ([]byte, error) {
	if spec == backends.Secp256k1 {
		return secp256k1Public(pkcs8)
	}
	private, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, err
	}
	var public any
	switch k := private.(type) {
	case *rsa.PrivateKey:
		public = &k.PublicKey
	case *ecdsa.PrivateKey:
		public = &k.PublicKey
	case ed25519.PrivateKey:
		public = k.Public()
	default:
		return nil, fmt.Errorf("a private key of type %T", private)
	}
	return x509.MarshalPKIXPublicKey(public)
}

// secp256k1Public does by hand what crypto/x509 does not do for this curve.
func secp256k1Public(pkcs8 []byte) ([]byte, error) {
	var outer struct {
		Version   int
		Algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
		Private   []byte
	}
	if rest, err := asn1.Unmarshal(pkcs8, &outer); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("PKCS #8 with %d bytes behind it: %w", len(rest), err)
	}
	var inner struct {
		Version int
		Key     []byte
		Curve   asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
		Public  asn1.BitString        `asn1:"optional,explicit,tag:1"`
	}
	if _, err := asn1.Unmarshal(outer.Private, &inner); err != nil {
		return nil, fmt.Errorf("SEC 1 private key: %w", err)
	}
	point := secp256k1.PrivKeyFromBytes(inner.Key).PubKey().SerializeUncompressed()
	return asn1.Marshal(struct {
		Algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
		Key       asn1.BitString
	}{outer.Algorithm, asn1.BitString{Bytes: point, BitLength: 8 * len(point)}})
}
