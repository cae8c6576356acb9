package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"cmkd/daemon/audit/ship"
	"cmkd/daemon/trustedfile"
)

// Ship says where the audit trail is shipped to: to a syslog server or to a
// program, one of them. It is read again on SIGHUP.
type Ship struct {
	// Syslog is "unix:/PATH", a stream socket, or "tls:HOST:PORT" (RFC 5425).
	Syslog string `toml:"syslog"`
	// ServerName is the name in the server's certificate. Optional, HOST.
	ServerName string `toml:"server_name"`
	// CAFile has the certificates of authorities that the server's may be of, in PEM.
	// Optional, the system's.
	CAFile string `toml:"ca_file"`
	// CertFile and KeyFile are the daemon's own certificate and its key, in PEM.
	// KeyFile may be the name of a systemd credential. Optional.
	CertFile string `toml:"cert_file"`
	KeyFile  string `toml:"key_file"`
	// Program is the absolute path of a program, which reads the trail's lines on its
	// standard input, and its arguments.
	Program []string `toml:"program"`
	// Acknowledges: the program writes the sequence number of the last record that it
	// has stored on its standard output. Optional, false: what it has read is taken
	// for stored two seconds later.
	Acknowledges bool `toml:"acknowledges"`
}

func (c *Ship) check() error {
	if c == nil {
		return nil
	}
	overTLS := strings.HasPrefix(c.Syslog, "tls:")
	path, overUnix := strings.CutPrefix(c.Syslog, "unix:")
	switch {
	case (c.Syslog == "") == (len(c.Program) == 0):
		return errors.New("audit.ship: give syslog or program, one of them")
	case len(c.Program) > 0 && !filepath.IsAbs(c.Program[0]):
		return fmt.Errorf("audit.ship: program must begin with an absolute path, not %q", c.Program[0])
	case c.Acknowledges && len(c.Program) == 0:
		return errors.New("audit.ship: only a program acknowledges")
	case !overTLS && (c.ServerName != "" || c.CAFile != "" || c.CertFile != "" || c.KeyFile != ""):
		return errors.New("audit.ship: server_name, ca_file, cert_file and key_file are for syslog over TLS")
	case overUnix && !filepath.IsAbs(path):
		return fmt.Errorf("audit.ship: the socket must be an absolute path, as in unix:/run/syslog.sock, not %q", c.Syslog)
	case c.Syslog != "" && !overTLS && !overUnix:
		return fmt.Errorf("audit.ship: syslog must be unix:/PATH or tls:HOST:PORT, not %q", c.Syslog)
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("audit.ship: cert_file and key_file go together")
	}
	if overTLS {
		if host, port, err := net.SplitHostPort(strings.TrimPrefix(c.Syslog, "tls:")); err != nil || host == "" || port == "" {
			return fmt.Errorf("audit.ship: syslog must be tls:HOST:PORT, as in tls:logs.example.com:6514, not %q", c.Syslog)
		}
	}
	for _, file := range []string{c.CAFile, c.CertFile} {
		if file != "" && !filepath.IsAbs(file) {
			return fmt.Errorf("audit.ship: %q must be an absolute path", file)
		}
	}
	if c.KeyFile != "" && !filepath.IsAbs(c.KeyFile) && !trustedfile.IsFileName(c.KeyFile) {
		return fmt.Errorf("audit.ship: key_file must be an absolute path or the name of a systemd credential, not %q", c.KeyFile)
	}
	return nil
}

// checkShip looks at what decides where the trail goes, and at what runs.
func (t *distrust) checkShip(c *Ship) {
	if c == nil {
		return
	}
	if len(c.Program) > 0 {
		t.check("audit.ship: program", c.Program[0])
	}
	for _, file := range []string{c.CAFile, c.CertFile} {
		if file != "" {
			t.check("audit.ship", file)
		}
	}
	if filepath.IsAbs(c.KeyFile) && !trustedfile.IsCredential(c.KeyFile) {
		t.check("audit.ship: key_file", c.KeyFile)
	}
	if path, ok := strings.CutPrefix(c.Syslog, "unix:"); ok { // who can write the folder can put a socket there
		t.checkShared("folder of audit.ship", filepath.Dir(path))
	}
}

// Receiver is what the configuration names. It reads the files.
func (c *Ship) Receiver() (ship.Receiver, error) {
	if len(c.Program) > 0 {
		if err := trustedfile.CheckFile(c.Program[0], true); err != nil {
			return nil, err
		}
		return &ship.Program{Command: c.Program, Acknowledges: c.Acknowledges}, nil
	}
	if path, ok := strings.CutPrefix(c.Syslog, "unix:"); ok {
		return &ship.Unix{Path: path}, nil
	}
	address := strings.TrimPrefix(c.Syslog, "tls:")
	config, err := clientTLS(c.CAFile, c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	config.ServerName = c.ServerName
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address) // it was checked
	}
	return &ship.TLS{Address: address, Config: config}, nil
}

// clientTLS reads the files that a client has: authorities, "" for the system's, and its
// own certificate and key, "" for none. The key may be a systemd credential. Each connection
// shows the certificate that is there by then: it may have been renewed.
func clientTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		text, err := trustedfile.Read(caFile, maxConfig)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no certificate in PEM", caFile)
		}
	}
	if certFile != "" {
		path, err := trustedfile.SecretPath(keyFile)
		if err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
		own := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certFile, path)
			if err != nil {
				return nil, fmt.Errorf("reading the certificate: %w", err)
			}
			return &pair, nil
		}
		if _, err := own(nil); err != nil {
			return nil, err
		}
		config.GetClientCertificate = own
	}
	return config, nil
}
