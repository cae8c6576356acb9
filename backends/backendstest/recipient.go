package backendstest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
)

var recipientKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

var oaepHashes = map[backends.Algorithm]crypto.Hash{
	"RSAES_OAEP_SHA_256": crypto.SHA256,
	"RSAES_OAEP_SHA_1":   crypto.SHA1,
}

// RunRecipients runs the part of the suite that sends data keys to recipients.
func RunRecipients(t *testing.T, rig Rig) {
	s := &suite{rig: rig}
	d := newDataKeySuite(t, s.open(t))
	t.Run("recipient", d.toRecipient)
	for _, spec := range []backends.KeySpec{backends.RSA2048, backends.P521, backends.Ed25519} {
		t.Run(string(spec), func(t *testing.T) { d.pair(t, spec) })
	}
}

// recipientForms are all the recipients there may be: by each algorithm, as CMS,
// and each where the plugin may see what they get.
func recipientForms(t testing.TB) []*backends.Recipient {
	t.Helper()
	var forms []*backends.Recipient
	for algorithm := range oaepHashes {
		for _, cms := range []bool{false, true} {
			for _, through := range []bool{false, true} {
				if cms && algorithm != "RSAES_OAEP_SHA_256" {
					continue
				}
				r := newRecipient(t, algorithm)
				r.CMS, r.ThroughPlugin = cms, through
				forms = append(forms, r)
			}
		}
	}
	return forms
}

func formName(r *backends.Recipient) string {
	return fmt.Sprintf("%s, CMS %t, through the plugin %t", r.Algorithm, r.CMS, r.ThroughPlugin)
}

// ErrNoCMS answers for a recipient that wants CMS from a backend that makes none,
// as one in memory may: nothing in a token stands in its way.
var ErrNoCMS = backends.Errorf(backends.Unsupported, "no CMS for recipients")

// toRecipients calls do with a recipient of each form and opens what it answers.
// A token need not be able to do all, but one; where the plugin may do it, all.
func toRecipients(t testing.TB, do func(*backends.Recipient) ([]byte, error), want []byte) {
	t.Helper()
	done := 0
	for _, r := range recipientForms(t) {
		sealed, err := do(r)
		if e := backends.CodeOf(err); e == backends.Unsupported && strings.Contains(err.Error(), "CKM_") && !r.ThroughPlugin {
			continue
		}
		if r.CMS && errors.Is(err, ErrNoCMS) {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", formName(r), err)
			continue
		}
		if !r.ThroughPlugin {
			done++
		}
		if got, err := openRecipient(r, sealed); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the recipient gets %d bytes, not the %d expected: %v", formName(r), len(got), len(want), err)
		}
	}
	if done == 0 {
		t.Error("no algorithm is supported")
	}
	refusedRecipients(t, do)
}

func newRecipient(t testing.TB, algorithm backends.Algorithm) *backends.Recipient {
	t.Helper()
	key, err := recipientKey()
	if err != nil {
		t.Fatal(err)
	}
	return &backends.Recipient{PublicKey: PublicDER(t, &key.PublicKey), Algorithm: algorithm}
}

// PublicDER is the SubjectPublicKeyInfo (RFC 5280) of a public key that the standard library knows.
func PublicDER(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// openRecipient opens as [backends.Recipient] says.
func openRecipient(r *backends.Recipient, sealed []byte) ([]byte, error) {
	key, err := recipientKey()
	if err != nil {
		return nil, err
	}
	if r.CMS {
		return openCMS(key, sealed)
	}
	if len(sealed) < key.Size() {
		return nil, fmt.Errorf("%d bytes are shorter than the modulus", len(sealed))
	}
	opened, err := key.Decrypt(nil, sealed[:key.Size()], &rsa.OAEPOptions{Hash: oaepHashes[r.Algorithm]})
	if err != nil || len(sealed) == key.Size() {
		return opened, err
	}
	kwp, err := subtle.NewKWP(opened)
	if err != nil {
		return nil, err
	}
	return kwp.Unwrap(sealed[key.Size():])
}

// openCMS opens a CMS EnvelopedData as openssl does.
func openCMS(key *rsa.PrivateKey, sealed []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "recipient-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Close()); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.Background(), "openssl", "cms", "-decrypt", "-inform", "DER", "-inkey", f.Name())
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(sealed), &stderr
	opened, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("openssl cms: %w: %s", err, stderr.Bytes())
	}
	return opened, nil
}

// refusedRecipients calls with recipients that nothing may be encrypted to.
func refusedRecipients(t testing.TB, do func(*backends.Recipient) ([]byte, error)) {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := newRecipient(t, "RSAES_OAEP_SHA_1")
	key, err := x509.ParsePKIXPublicKey(good.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	exponent := func(e int) []byte {
		return PublicDER(t, &rsa.PublicKey{N: key.(*rsa.PublicKey).N, E: e})
	}
	for name, r := range map[string]*backends.Recipient{
		"no key":            {Algorithm: good.Algorithm},
		"not DER":           {Algorithm: good.Algorithm, PublicKey: []byte("-----BEGIN PUBLIC KEY-----")},
		"trailing data":     {Algorithm: good.Algorithm, PublicKey: append(bytes.Clone(good.PublicKey), 0)},
		"an EC key":         {Algorithm: good.Algorithm, PublicKey: PublicDER(t, &ec.PublicKey)},
		"exponent 3":        {Algorithm: good.Algorithm, PublicKey: exponent(3)},
		"exponent 1":        {Algorithm: good.Algorithm, PublicKey: exponent(1)},
		"an even exponent":  {Algorithm: good.Algorithm, PublicKey: exponent(65538)},
		"a long exponent":   {Algorithm: good.Algorithm, PublicKey: exponent(1<<31 + 1)},
		"exponent, read":    {Algorithm: "RSAES_OAEP_SHA_256", PublicKey: exponent(1<<31 + 1), CMS: true, ThroughPlugin: true},
		"another algorithm": {Algorithm: "RSAES_PKCS1_V1_5", PublicKey: good.PublicKey},
		"CMS with SHA-1":    {Algorithm: "RSAES_OAEP_SHA_1", PublicKey: good.PublicKey, CMS: true},
		"no key, read":      {Algorithm: "RSAES_OAEP_SHA_256", CMS: true, ThroughPlugin: true},
	} {
		_, err := do(r)
		wantCode(t, "recipient with "+name, err, backends.InvalidRequest)
	}
}
