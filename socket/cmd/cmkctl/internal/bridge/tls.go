package bridge

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// bridgeTLS is what a bridge that serves TLS has: nil for one that does not.
type bridgeTLS struct {
	certificate tls.Certificate
	names       []string // DNS names that clients may call it by, beside the loopback's
	host        string   // that a client is told
	ca          []byte   // PEM of who issued the certificate, nil if it was given
}

// tlsFlags are those of a bridge about TLS.
type tlsFlags struct {
	make                  bool
	caFile, cert, keyFile string
}

func (f *tlsFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.make, "tls", false, "serve TLS, with a certificate created for this run")
	flags.StringVar(&f.caFile, "ca-file", "", "`file` for the certificate of the authority that --tls creates, for clients to trust (default a temporary one)")
	flags.StringVar(&f.cert, "tls-cert", "", "serve TLS, with the certificate chain in this `file` (PEM), or systemd credential")
	flags.StringVar(&f.keyFile, "tls-key", "", "`file` with its private key (PEM), or systemd credential")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	cmd.MarkFlagsMutuallyExclusive("tls", "tls-cert")
	cmd.MarkFlagsMutuallyExclusive("ca-file", "tls-cert")
}

// load is what the flags say, nil for no TLS.
func (f *tlsFlags) load() (*bridgeTLS, error) {
	switch {
	case f.cert != "":
		return givenTLS(f.cert, f.keyFile)
	case f.make:
		return newTLS(time.Now())
	case f.caFile != "":
		return nil, cli.Usagef("--ca-file is for --tls")
	}
	return nil, nil //nolint:nilnil // no TLS
}

// maxTLSFile is the longest certificate chain, and key, in bytes.
const maxTLSFile = 64 << 10

// givenTLS reads a certificate and its key.
func givenTLS(certFile, keyFile string) (*bridgeTLS, error) {
	cert, err := readCredential(certFile, maxTLSFile, false)
	if err != nil {
		return nil, cli.WithStatus(cli.ExitInput, fmt.Errorf("reading the certificate: %w", err))
	}
	key, err := readCredential(keyFile, maxTLSFile, true)
	defer func() { clear(key) }()
	if err != nil {
		return nil, cli.WithStatus(cli.ExitInput, fmt.Errorf("reading the key of the certificate: %w", err))
	}
	b := &bridgeTLS{host: loopback}
	if b.certificate, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, cli.Inputf("%s and %s: %w", certFile, keyFile, err)
	}
	leaf := b.certificate.Leaf
	if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return nil, cli.Inputf("the certificate in %s is valid from %s to %s only", certFile, leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	b.names = leaf.DNSNames
	switch {
	case leaf.VerifyHostname(loopback) == nil:
	case leaf.VerifyHostname("localhost") == nil:
		b.host = "localhost"
	case len(b.names) > 0:
		b.host = b.names[0]
	default:
		return nil, cli.Inputf("the certificate in %s is not for %s, localhost or any other DNS name", certFile, loopback)
	}
	return b, nil
}

// tlsValid is how long a certificate that was created is valid: as long as browsers take
// one (CA/Browser Forum, Baseline Requirements 6.3.2), in case others do as they do.
const tlsValid = 397 * 24 * time.Hour

// newTLS creates a certificate for the loopback, and an authority that issues it. The
// authority's key is gone then, and it could issue for no other name: who trusts it,
// trusts nothing but this bridge.
func newTLS(now time.Time) (*bridgeTLS, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ip := net.ParseIP(loopback).To4()
	from, until := now.Add(-time.Hour), now.Add(tlsValid)
	ca := &x509.Certificate{
		SerialNumber: serialNumber(), Subject: pkix.Name{CommonName: "cmkctl bridge, authority of one run"},
		NotBefore: from, NotAfter: until, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{"localhost"},
		PermittedIPRanges: []*net.IPNet{{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))}},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: serialNumber(), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{ip},
	}
	if ca, err = x509.ParseCertificate(caDER); err != nil { // with its key ID
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	return &bridgeTLS{
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, host: loopback,
		ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}),
	}, nil
}

// serialNumber is random, of 16 bytes (RFC 5280, section 4.1.2.2).
func serialNumber() *big.Int {
	n := make([]byte, 16)
	rand.Read(n)
	n[0] &= 0x7f
	return new(big.Int).SetBytes(n)
}

// config is that of the server. net/http's HTTP/2 would read past [connections].
func (b *bridgeTLS) config() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{b.certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

// systemBundles are where systems have the certificates that they trust.
var systemBundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}

// trust writes the files that make clients trust the bridge, and returns the variables
// that name them. AWS_CA_BUNDLE takes the place of what a client trusts otherwise, which
// the bundle keeps. remove removes what is temporary.
func (b *bridgeTLS) trust(caFile string) (vars []Variable, remove func(), err error) {
	dir, err := os.MkdirTemp("", "cmkctl-bridge-")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) } // it is temporary
	defer func() {
		if err != nil {
			remove()
		}
	}()
	if caFile == "" {
		caFile = filepath.Join(dir, "ca.pem")
	}
	if caFile, err = filepath.Abs(caFile); err != nil {
		return nil, nil, err
	}
	if err = os.WriteFile(caFile, b.ca, 0o600); err == nil {
		// Other users' clients may need it, whatever the umask of a service.
		err = os.Chmod(caFile, 0o644) //nolint:gosec // a certificate is public
	}
	if err != nil {
		return nil, nil, cli.WithStatus(cli.ExitInput, err)
	}
	bundle := filepath.Join(dir, "bundle.pem")
	if err = os.WriteFile(bundle, bytes.Join([][]byte{b.ca, trusted()}, nil), 0o600); err != nil {
		return nil, nil, err
	}
	return []Variable{{"AWS_CA_BUNDLE", bundle}, {"NODE_EXTRA_CA_CERTS", caFile}}, remove, nil
}

// trusted is what AWS clients trust without the bridge, nil if that is not known.
func trusted() []byte {
	paths := systemBundles
	if own := os.Getenv("AWS_CA_BUNDLE"); own != "" {
		paths = []string{own}
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			return text
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	return nil
}
