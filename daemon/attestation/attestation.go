// Package attestation verifies the attestation documents of AWS Nitro Enclaves
// and NitroTPM: who signed them, and that they are complete.
//
// A document is a COSE_Sign1 (RFC 9052, section 4.2) whose payload is a CBOR
// map, signed by a certificate that it brings along.
// https://github.com/aws/aws-nitro-enclaves-nsm-api/blob/main/docs/attestation_process.md
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/nitrotpm-attestation-document-validate.html
package attestation

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// What is wrong with a document. The text of the wrapping error says where.
var (
	// ErrMalformed: it is not an attestation document, or parts are missing.
	ErrMalformed = errors.New("it is malformed")
	// ErrUntrusted: its certificate does not lead to a root, now.
	ErrUntrusted = errors.New("its certificate is not trusted")
	// ErrSignature: it was not signed by its certificate.
	ErrSignature = errors.New("its signature is wrong")
)

// Platform is what attests.
type Platform string

// The platforms that AWS KMS knows.
const (
	NitroEnclave Platform = "NitroEnclave"
	NitroTPM     Platform = "NitroTPM"
)

// Document is what a verified document says.
type Document struct {
	Platform Platform
	// ModuleID names the enclave or instance.
	ModuleID string
	// Timestamp is when the document was made.
	Timestamp time.Time
	// PCRs are the platform configuration registers, by index 0 to 31; each has
	// 32, 48 or 64 bytes.
	PCRs map[uint][]byte
	// PublicKey is a DER SubjectPublicKeyInfo (RFC 5280): RSA of 2048 to 4096
	// bits, to which answers are encrypted.
	PublicKey []byte
}

// Verifier verifies documents. It may be used concurrently.
type Verifier struct {
	roots *x509.CertPool
}

// NewVerifier trusts the roots and nothing else.
func NewVerifier(roots []*x509.Certificate) *Verifier {
	v := &Verifier{roots: x509.NewCertPool()}
	for _, r := range roots {
		v.roots.AddCert(r)
	}
	return v
}

// ParseRoots reads root certificates in PEM, one or more.
func ParseRoots(text []byte) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block is %q, not a CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading a root certificate: %w", err)
		}
		if !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return nil, fmt.Errorf("the certificate of %q is of no certificate authority", c.Subject)
		}
		roots = append(roots, c)
	}
	if len(roots) == 0 {
		return nil, errors.New("no certificate in PEM found")
	}
	return roots, nil
}

// Is reports whether b looks like a document rather than, say, a DER public key:
// a COSE_Sign1 is a CBOR array, with a tag or without.
func Is(b []byte) bool {
	return len(b) > 0 && (b[0]>>5 == majorArray || b[0]>>5 == majorTag)
}

// Verify returns what the document says, if it is signed by a certificate that
// leads to a root and is valid at the time now, and if it holds a public key to
// which answers can be encrypted. It fails with [ErrMalformed], [ErrUntrusted] or
// [ErrSignature].
func (v *Verifier) Verify(document []byte, now time.Time) (*Document, error) {
	d, err := v.verify(document, now)
	if err != nil {
		return nil, err
	}
	if err := checkPublicKey(d.PublicKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return d, nil
}

// verify is Verify of everything but the public key.
func (v *Verifier) verify(document []byte, now time.Time) (*Document, error) {
	message, p, err := parse(document)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	leaf, err := v.chain(p, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if err := message.verify(leaf); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return p.document(), nil
}

// chain returns the certificate that signed, verified. Revocation lists are not
// asked, as AWS says.
func (v *Verifier) chain(p *payload, now time.Time) (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(p.Certificate)
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, errors.New("its key usage is not digitalSignature")
	}
	// A path length stands in certificates of authorities only.
	if leaf.IsCA || leaf.BasicConstraintsValid && leaf.MaxPathLen >= 0 {
		return nil, errors.New("it is a CA certificate")
	}
	between := x509.NewCertPool()
	for i, der := range p.CABundle {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading cabundle[%d]: %w", i, err)
		}
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: v.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, err
	}
	for _, chain := range chains {
		if signs(chain[1:]) {
			return leaf, nil
		}
	}
	return nil, errors.New("the key usage of an authority is not keyCertSign")
}

// signs reports whether all authorities may sign certificates. Verify lets those
// pass that have no key usage at all.
func signs(authorities []*x509.Certificate) bool {
	for _, c := range authorities {
		if c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return false
		}
	}
	return true
}

// checkPublicKey refuses what nothing can be encrypted to.
func checkPublicKey(der []byte) error {
	if len(der) == 0 {
		return errors.New("public_key is missing")
	}
	if err := CheckPublicKey(der); err != nil {
		return fmt.Errorf("public_key is not %w", err)
	}
	return nil
}

// What a recipient's key is not, to follow "is not".
var (
	errNotPublicKey = errors.New("a DER SubjectPublicKeyInfo")
	errNotRSAKey    = errors.New("an RSA key of 2048 to 4096 bits")
	errBadExponent  = fmt.Errorf("an RSA key with an odd public exponent of %d to %d", minExponent, maxExponent)
)

// minExponent is that of FIPS 186-5, section A.1.1; maxExponent the largest for
// which all that encrypts is made, tokens and crypto/rsa.
const minExponent, maxExponent = 65537, 1<<31 - 1

// CheckPublicKey refuses what nothing can be encrypted to: all but the DER
// SubjectPublicKeyInfo of an RSA key of 2048 to 4096 bits with a usual exponent.
// The text of the error follows "is not".
func CheckPublicKey(der []byte) error {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return errNotPublicKey
	}
	public, ok := parsed.(*rsa.PublicKey)
	switch {
	case !ok || public.N.BitLen() < 2048 || public.N.BitLen() > 4096 || public.N.Bit(0) == 0:
		return errNotRSAKey
	case public.E < minExponent || public.E > maxExponent || public.E%2 == 0:
		return errBadExponent
	}
	return nil
}
