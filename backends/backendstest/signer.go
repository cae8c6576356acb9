package backendstest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	dcrecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"cmkd/backends"
)

// signing says again, apart from the code under test, how keys sign.
type signing struct {
	algorithm backends.Algorithm
	hash      crypto.Hash // of a DIGEST; 0: none
	raw       bool        // takes RAW messages
}

var rsaSignings = []signing{
	{"RSASSA_PKCS1_V1_5_SHA_256", crypto.SHA256, true},
	{"RSASSA_PKCS1_V1_5_SHA_384", crypto.SHA384, true},
	{"RSASSA_PKCS1_V1_5_SHA_512", crypto.SHA512, true},
	{"RSASSA_PSS_SHA_256", crypto.SHA256, true},
	{"RSASSA_PSS_SHA_384", crypto.SHA384, true},
	{"RSASSA_PSS_SHA_512", crypto.SHA512, true},
}

var signings = map[backends.KeySpec][]signing{
	backends.RSA2048:   rsaSignings,
	backends.RSA3072:   rsaSignings,
	backends.RSA4096:   rsaSignings,
	backends.P256:      {{"ECDSA_SHA_256", crypto.SHA256, true}},
	backends.Secp256k1: {{"ECDSA_SHA_256", crypto.SHA256, true}},
	backends.P384:      {{"ECDSA_SHA_384", crypto.SHA384, true}},
	backends.P521:      {{"ECDSA_SHA_512", crypto.SHA512, true}},
	backends.Ed25519:   {{"ED25519_SHA_512", 0, true}, {"ED25519_PH_SHA_512", crypto.SHA512, false}},
}

// quick reports whether keys of a spec are generated in milliseconds.
func quick(spec backends.KeySpec) bool { return !strings.HasPrefix(string(spec), "RSA_") }

func (s *suite) signer(t *testing.T, backend backends.Backend) {
	for _, kind := range s.kinds(t, backend) {
		if kind.Usage != backends.SignVerify || signings[kind.Spec] == nil {
			continue
		}
		t.Run(string(kind.Spec), func(t *testing.T) {
			d := &signerSuite{b: backend.(backends.Signer), key: create(t, backend, kind)}
			checked, err := backend.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: d.key})
			if err != nil {
				t.Fatal(err)
			}
			d.public = checked.PublicKey
			for _, a := range signings[kind.Spec] {
				t.Run(string(a.algorithm), func(t *testing.T) { d.signing(t, a) })
			}
			t.Run("refusals", d.refusals)
			if quick(kind.Spec) {
				d.another(t, create(t, backend, kind))
			}
		})
	}
}

type signerSuite struct {
	b      backends.Signer
	key    backends.Key
	public []byte
}

func (d *signerSuite) sign(t testing.TB, a backends.Algorithm, kind backends.MessageType, message []byte) ([]byte, error) {
	t.Helper()
	answer, err := d.b.Sign(t.Context(), &backends.SignRequest{Key: d.key, Algorithm: a, Type: kind, Message: message})
	if err != nil {
		return nil, err
	}
	return answer.Signature, nil
}

func (d *signerSuite) verify(t testing.TB, a backends.Algorithm, kind backends.MessageType, message, signature []byte) bool {
	t.Helper()
	answer, err := d.b.Verify(t.Context(), &backends.VerifyRequest{Key: d.key, Algorithm: a, Type: kind, Message: message, Signature: signature})
	if err != nil {
		t.Errorf("verifying with %s: %v: a bad signature is no error", a, err)
		return false
	}
	return answer.Valid
}

func (d *signerSuite) signing(t *testing.T, a signing) {
	for _, n := range []int{1, 32, 64, 4095, 4096} {
		message := randomBytes(t, n)
		digest := message
		if a.hash != 0 {
			h := a.hash.New()
			h.Write(message)
			digest = h.Sum(nil)
		}
		kinds := map[backends.MessageType][]byte{}
		if a.raw {
			kinds[backends.Raw] = message
		}
		if a.hash != 0 {
			kinds[backends.Digest] = digest
		}
		for kind, signed := range kinds {
			signature, err := d.sign(t, a.algorithm, kind, signed)
			if backends.CodeOf(err) == backends.Unsupported && strings.Contains(err.Error(), "CKM_") {
				t.Logf("not supported: %v", err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := verifies(d.key.Spec, d.public, a, digest, signature); err != nil {
				t.Errorf("%s of %d bytes: the signature %x does not verify: %v", kind, n, signature, err)
			}
			for other, signed := range kinds { // the two are one path
				if !d.verify(t, a.algorithm, other, signed, signature) {
					t.Errorf("a signature of the %s does not verify as one of the %s", kind, other)
				}
			}
			d.altered(t, a.algorithm, kind, signed, signature)
		}
	}
}

// verifies verifies with the libraries that the tests trust.
func verifies(spec backends.KeySpec, public []byte, a signing, digest, signature []byte) error {
	if spec == backends.Secp256k1 {
		return verifiesSecp256k1(public, digest, signature)
	}
	key, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return err
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if strings.Contains(string(a.algorithm), "PSS") {
			return rsa.VerifyPSS(key, a.hash, digest, signature, &rsa.PSSOptions{SaltLength: a.hash.Size()})
		}
		return rsa.VerifyPKCS1v15(key, a.hash, digest, signature)
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(key, digest, signature) {
			return nil
		}
	case ed25519.PublicKey:
		return ed25519.VerifyWithOptions(key, digest, signature, &ed25519.Options{Hash: a.hash})
	}
	return fmt.Errorf("the signature is refused by %T", key)
}

func verifiesSecp256k1(public, digest, signature []byte) error {
	var info struct {
		Algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(public, &info); err != nil {
		return err
	}
	key, err := secp256k1.ParsePubKey(info.Key.Bytes)
	if err != nil {
		return err
	}
	parsed, err := dcrecdsa.ParseDERSignature(signature)
	if err != nil {
		return err
	}
	if !parsed.Verify(digest, key) {
		return fmt.Errorf("the signature is refused")
	}
	return nil
}

// altered changes message and signature.
func (d *signerSuite) altered(t *testing.T, a backends.Algorithm, kind backends.MessageType, message, signature []byte) {
	changed := bytes.Clone(message)
	changed[len(changed)/2] ^= 1
	if d.verify(t, a, kind, changed, signature) {
		t.Errorf("%s: another message verifies", kind)
	}
	bad := map[string][]byte{
		"empty": nil, "one byte": {0}, "cut": signature[:len(signature)-1], "longer": append(bytes.Clone(signature), 0),
		"a leading zero": append([]byte{0}, signature...), "all zeros": make([]byte, len(signature)),
		"all ones": bytes.Repeat([]byte{0xff}, len(signature)), "random": randomBytes(t, len(signature)), "huge": randomBytes(t, 6144),
	}
	for i := 0; i < len(signature); i += max(1, len(signature)/16) {
		c := bytes.Clone(signature)
		c[i] ^= 1 << (i % 8)
		bad[fmt.Sprintf("byte %d", i)] = c
	}
	for name, s := range bad {
		if d.verify(t, a, kind, message, s) {
			t.Errorf("%s: a signature verifies that is changed: %s", kind, name)
		}
	}
}

// refusals signs what cannot be meant.
func (d *signerSuite) refusals(t *testing.T) {
	own := map[backends.Algorithm]bool{}
	for _, a := range signings[d.key.Spec] {
		own[a.algorithm] = true
		refuse := func(what string, kind backends.MessageType, n int) {
			t.Helper()
			message := make([]byte, n)
			_, err := d.sign(t, a.algorithm, kind, message)
			wantCode(t, fmt.Sprintf("%s: signing %s", a.algorithm, what), err, backends.InvalidRequest)
			_, err = d.b.Verify(t.Context(), &backends.VerifyRequest{Key: d.key, Algorithm: a.algorithm, Type: kind, Message: message, Signature: make([]byte, 64)})
			wantCode(t, fmt.Sprintf("%s: verifying %s", a.algorithm, what), err, backends.InvalidRequest)
		}
		refuse("a message of 4,097 bytes", backends.Raw, 4097)
		refuse("mu", backends.ExternalMu, 64)
		refuse("no message type", "", 32)
		for _, n := range []int{0, 20, 31, 33, 65} {
			refuse(fmt.Sprintf("a digest of %d bytes", n), backends.Digest, n)
		}
		if !a.raw {
			refuse("a raw message", backends.Raw, 32)
		}
		if a.hash == 0 {
			refuse("a digest", backends.Digest, 64)
		}
	}
	for _, all := range signings {
		for _, a := range all {
			if !own[a.algorithm] {
				_, err := d.sign(t, a.algorithm, backends.Raw, []byte("message"))
				wantCode(t, "signing with "+string(a.algorithm), err, backends.InvalidRequest)
			}
		}
	}
	key := d.key
	key.ID = newID()
	_, err := d.b.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: signings[key.Spec][0].algorithm, Type: backends.Raw, Message: []byte("x")})
	wantCode(t, "signing with a key that is missing", err, backends.KeyMissing)
	_, err = d.b.Verify(t.Context(), &backends.VerifyRequest{Key: key, Algorithm: signings[key.Spec][0].algorithm, Type: backends.Raw, Message: []byte("x")})
	wantCode(t, "verifying with a key that is missing", err, backends.KeyMissing)
}

// another verifies with a key that did not sign.
func (d *signerSuite) another(t *testing.T, key backends.Key) {
	a := signings[key.Spec][0]
	signature, err := d.sign(t, a.algorithm, backends.Raw, []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	other := &signerSuite{b: d.b, key: key}
	if other.verify(t, a.algorithm, backends.Raw, []byte("message"), signature) {
		t.Error("another key verifies the signature")
	}
}
