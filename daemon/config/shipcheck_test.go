package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate writes a certificate that is valid for so long from now on, and its key.
func writeCertificate(t *testing.T, certFile, keyFile string, valid time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(valid)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestShipLook: what a start of the shipper would stumble over is said before.
func TestShipLook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	writeCertificate(t, at("good.pem"), at("good.key"), 10000*time.Hour)
	writeCertificate(t, at("soon.pem"), at("soon.key"), 100*time.Hour)
	writeCertificate(t, at("old.pem"), at("old.key"), -time.Hour)
	for name, mode := range map[string]os.FileMode{"program": 0o700, "data": 0o600} {
		if err := os.WriteFile(at(name), []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	socket, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	const tls = "tls:logs.example:6514"
	for name, c := range map[string]struct {
		ship          *Ship
		warning, want string
	}{
		"none":                  {nil, "", ""},
		"program":               {&Ship{Program: []string{at("program")}}, "", ""},
		"program not there":     {&Ship{Program: []string{at("none")}}, "", "audit.ship: stat " + at("none")},
		"program that is none":  {&Ship{Program: []string{at("data")}}, "", "audit.ship: " + at("data") + " has the mode 0600: run chmod a+x"},
		"socket":                {&Ship{Syslog: "unix:" + at("socket")}, "", ""},
		"socket not there":      {&Ship{Syslog: "unix:" + at("none")}, "there is no socket", ""},
		"socket that is a file": {&Ship{Syslog: "unix:" + at("data")}, "", at("data") + " is not a socket"},
		"TLS":                   {&Ship{Syslog: tls, CAFile: at("good.pem"), CertFile: at("good.pem"), KeyFile: at("good.key")}, "", ""},
		"soon":                  {&Ship{Syslog: tls, CertFile: at("soon.pem"), KeyFile: at("soon.key")}, "audit.ship: the certificate in " + at("soon.pem") + " expires on", ""},
		"expired":               {&Ship{Syslog: tls, CertFile: at("old.pem"), KeyFile: at("old.key")}, "", "the certificate in " + at("old.pem") + " expired on"},
		"another key":           {&Ship{Syslog: tls, CertFile: at("good.pem"), KeyFile: at("old.key")}, "", "private key does not match"},
		"authority not there":   {&Ship{Syslog: tls, CAFile: at("none")}, "", at("none")},
		"no authority":          {&Ship{Syslog: tls, CAFile: at("data")}, "", at("data") + " has no certificate in PEM"},
		"credential of nobody":  {&Ship{Syslog: tls, CertFile: at("good.pem"), KeyFile: "key"}, "", "systemd credential"},
	} {
		warnings, err := c.ship.look(time.Now())
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got := strings.Join(warnings, "; "); !strings.Contains(text, c.want) || (text == "") != (c.want == "") || !strings.Contains(got, c.warning) || (got == "") != (c.warning == "") {
			t.Errorf("%s: %q, warnings %q", name, text, got)
		}
	}
}
