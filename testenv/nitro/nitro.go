// Package nitro makes attestation documents as the Nitro hypervisor does, under
// a certificate authority of the test's own.
package nitro

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Authority is a root and what it issues. Its root lives thirty years, as AWS's
// does.
type Authority struct {
	Root *x509.Certificate
	key  *ecdsa.PrivateKey
	now  time.Time
}

// NewAuthority makes a root that is valid at the time now.
func NewAuthority(t testing.TB, now time.Time) *Authority {
	t.Helper()
	a := &Authority{key: newKey(t, elliptic.P384()), now: now}
	template := authority("aws.nitro-enclaves", now.AddDate(-5, 0, 0), now.AddDate(25, 0, 0))
	a.Root = issue(t, template, template, a.key, a.key)
	return a
}

// PEM is the root as a file that the configuration can name.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Root.Raw})
}

// Draft is a document before it is signed. Tests change what they want to be
// wrong.
type Draft struct {
	// Payload is the signed map, without certificate and cabundle unless a test
	// sets them.
	Payload map[string]any
	// Protected is the protected header of the COSE_Sign1.
	Protected map[int]any
	// Intermediate and Leaf are the templates of the certificates.
	Intermediate, Leaf *x509.Certificate
	// Curve is of the leaf's key.
	Curve elliptic.Curve
	// Tagged puts the CBOR tag 18 in front.
	Tagged bool
	// Forged signs with a key that is not the leaf's.
	Forged bool
	// Unprotected is the unprotected header, empty but for tests.
	Unprotected map[int]any
	// Indefinite writes the payload as a map of indefinite length, as the
	// hypervisor does since August 2025.
	Indefinite bool
	// Streamed writes every array, map and string of the document with an
	// indefinite length (RFC 8949, section 3.2).
	Streamed bool
	// Extra is appended to the encoded pairs of an Indefinite payload.
	Extra []byte
}

// Document makes a document of an enclave whose PCR n is 48 bytes of n + 1, for
// the public key, a DER SubjectPublicKeyInfo.
func (a *Authority) Document(t testing.TB, publicKey []byte, edits ...func(*Draft)) []byte {
	t.Helper()
	d := &Draft{
		Indefinite: true,
		Payload: map[string]any{
			"module_id": "i-0123456789abcdef0-enc0123456789abcdef", "digest": "SHA384", "timestamp": a.now.UnixMilli(),
			"pcrs": map[int][]byte{0: PCR(0), 1: PCR(1), 2: PCR(2), 3: PCR(3), 4: PCR(4), 8: PCR(8)},
			// The hypervisor writes null for what the enclave did not give.
			"public_key": publicKey, "user_data": nil, "nonce": nil,
		},
		Protected:    map[int]any{1: -35}, // ES384
		Intermediate: authority("zonal.us-east-1.aws.nitro-enclaves", a.now.Add(-24*time.Hour), a.now.Add(24*time.Hour)),
		Leaf: &x509.Certificate{
			Subject: pkix.Name{CommonName: "i-0123456789abcdef0-enc0123456789abcdef"}, SerialNumber: big.NewInt(3),
			NotBefore: a.now.Add(-time.Minute), NotAfter: a.now.Add(3 * time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, MaxPathLen: -1,
		},
		Curve: elliptic.P384(),
	}
	for _, edit := range edits {
		edit(d)
	}
	betweenKey, key := newKey(t, elliptic.P384()), newKey(t, d.Curve)
	between := issue(t, d.Intermediate, a.Root, betweenKey, a.key)
	leaf := issue(t, d.Leaf, between, key, betweenKey)
	for name, value := range map[string]any{"certificate": leaf.Raw, "cabundle": [][]byte{a.Root.Raw, between.Raw}} {
		if _, set := d.Payload[name]; !set {
			d.Payload[name] = value
		}
	}
	if d.Forged {
		key = newKey(t, d.Curve)
	}
	return sign(t, d, key)
}

// PCR is the value of PCR n in every document.
func PCR(n byte) []byte {
	v := make([]byte, 48)
	for i := range v {
		v[i] = n + 1
	}
	return v
}

// sign makes the COSE_Sign1 (RFC 9052, section 4.4).
func sign(t testing.TB, d *Draft, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	protected, payload := encode(t, d.Protected), encode(t, d.Payload)
	switch {
	case d.Streamed:
		protected, payload = stream(t, d.Protected), stream(t, d.Payload)
	case d.Indefinite:
		payload = append(append([]byte{0xbf}, pairs(t, d.Payload)...), append(d.Extra, 0xff)...)
	}
	digest := sha512.Sum384(encode(t, []any{"Signature1", protected, []byte{}, payload}))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	size := (d.Curve.Params().BitSize + 7) / 8
	signature := make([]byte, 2*size)
	r.FillBytes(signature[:size])
	s.FillBytes(signature[size:])
	unprotected := d.Unprotected
	if unprotected == nil {
		unprotected = map[int]any{}
	}
	message := []any{protected, unprotected, payload, signature}
	encoded := encode(t, message)
	if d.Streamed {
		encoded = stream(t, message)
	}
	if d.Tagged {
		encoded = encode(t, cbor.RawTag{Number: 18, Content: encoded})
	}
	return encoded
}

// pairs are the encoded pairs of a map, without its head.
func pairs(t testing.TB, m map[string]any) []byte {
	t.Helper()
	var out []byte
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(append(out, encode(t, name)...), encode(t, m[name])...)
	}
	return out
}

// stream encodes with indefinite lengths: a head of 5 bits 31, the items, and
// the break.
func stream(t testing.TB, v any) []byte {
	t.Helper()
	const breakCode = 0xff
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Map:
		out := []byte{0xbf}
		for _, key := range r.MapKeys() {
			out = append(append(out, stream(t, key.Interface())...), stream(t, r.MapIndex(key).Interface())...)
		}
		return append(out, breakCode)
	case reflect.String:
		text := r.String()
		out := append([]byte{0x7f}, encode(t, text[:len(text)/2])...)
		return append(append(out, encode(t, text[len(text)/2:])...), breakCode)
	case reflect.Slice:
		if b, ok := v.([]byte); ok {
			out := append([]byte{0x5f}, encode(t, b[:len(b)/2])...)
			return append(append(out, encode(t, b[len(b)/2:])...), breakCode)
		}
		out := []byte{0x9f}
		for i := range r.Len() {
			out = append(out, stream(t, r.Index(i).Interface())...)
		}
		return append(out, breakCode)
	default:
		return encode(t, v)
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func authority(name string, from, to time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:      pkix.Name{CommonName: name, Country: []string{"US"}, Organization: []string{"Amazon"}, OrganizationalUnit: []string{"AWS"}},
		SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
}

func issue(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
