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
	"math/big"
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
}

// Document makes a document of an enclave whose PCR n is 48 bytes of n + 1, for
// the public key, a DER SubjectPublicKeyInfo.
func (a *Authority) Document(t testing.TB, publicKey []byte, edits ...func(*Draft)) []byte {
	t.Helper()
	d := &Draft{
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
	digest := sha512.Sum384(encode(t, []any{"Signature1", protected, []byte{}, payload}))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	size := (d.Curve.Params().BitSize + 7) / 8
	signature := make([]byte, 2*size)
	r.FillBytes(signature[:size])
	s.FillBytes(signature[size:])
	var message any = []any{protected, map[int]any{}, payload, signature}
	if d.Tagged {
		message = cbor.Tag{Number: 18, Content: message}
	}
	return encode(t, message)
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
