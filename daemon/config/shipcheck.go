package config

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cmkd/daemon/trustedfile"
)

// expirySoon is how long before a certificate expires somebody is warned.
const expirySoon = 30 * 24 * time.Hour

// look reads what the section names, as a start does, and says what is wrong with it, and
// what may be. It connects to nobody.
func (c *Ship) look(now time.Time) (warnings []string, err error) {
	if c == nil {
		return nil, nil
	}
	if _, err := c.Receiver(); err != nil {
		return nil, fmt.Errorf("audit.ship: %w", err)
	}
	if path, ok := strings.CutPrefix(c.Syslog, "unix:"); ok {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return []string{"audit.ship: there is no socket " + path + ": nothing is shipped until the receiver has made it"}, nil
		case err != nil:
			return nil, fmt.Errorf("audit.ship: %w", err)
		case info.Mode()&fs.ModeSocket == 0:
			return nil, fmt.Errorf("audit.ship: %s is not a socket", path)
		}
	}
	warning, err := checkCertificate(c.CertFile, now)
	if err != nil {
		return nil, fmt.Errorf("audit.ship: %w", err)
	}
	if warning != "" {
		warnings = append(warnings, "audit.ship: "+warning)
	}
	return warnings, nil
}

// checkCertificate refuses a certificate that is not valid now, and warns of one that soon
// will not be. "" means none.
func checkCertificate(file string, now time.Time) (warning string, err error) {
	if file == "" {
		return "", nil
	}
	text, err := trustedfile.Read(file, maxConfig)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", fmt.Errorf("%s does not begin with a certificate in PEM", file)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", file, err)
	case now.Before(leaf.NotBefore):
		return "", fmt.Errorf("the certificate in %s is not valid before %s", file, leaf.NotBefore.Format(time.RFC3339))
	case now.After(leaf.NotAfter):
		return "", fmt.Errorf("the certificate in %s expired on %s", file, leaf.NotAfter.Format(time.RFC3339))
	case now.Add(expirySoon).After(leaf.NotAfter):
		return fmt.Sprintf("the certificate in %s expires on %s", file, leaf.NotAfter.Format(time.RFC3339)), nil
	}
	return "", nil
}

// Identity changes with all that decides what is shipped where: the section, the content
// of certificates and keys, and the files that the program's command line names.
func (c *Ship) Identity() ([sha256.Size]byte, error) {
	sum := sha256.New()
	if err := json.NewEncoder(sum).Encode(c); err != nil {
		return [sha256.Size]byte{}, err
	}
	for _, name := range c.Program {
		if !filepath.IsAbs(name) {
			continue
		}
		if info, err := os.Stat(name); err == nil {
			fmt.Fprintln(sum, name, info.Size(), info.Mode(), info.ModTime().UnixNano())
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				fmt.Fprintln(sum, st.Ino, st.Ctim)
			}
		}
	}
	for _, name := range []string{c.CAFile, c.CertFile, c.KeyFile} {
		if name == "" {
			continue
		}
		path, err := trustedfile.SecretPath(name)
		if err != nil {
			return [sha256.Size]byte{}, err
		}
		if err := addFile(sum, path); err != nil {
			return [sha256.Size]byte{}, err
		}
	}
	return [sha256.Size]byte(sum.Sum(nil)), nil
}

// addFile writes the content of a file, with its length before it.
func addFile(to io.Writer, path string) error {
	f, info, err := trustedfile.OpenRegular(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	fmt.Fprintln(to, info.Size())
	_, err = io.Copy(to, io.LimitReader(f, maxConfig))
	return err
}
