package backendstest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
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

// toRecipients calls do with a recipient for each algorithm and opens what it
// answers. A token need not be able to do both, but one.
func toRecipients(t testing.TB, do func(*backends.Recipient) ([]byte, error), want []byte) {
	t.Helper()
	done := 0
	for algorithm := range oaepHashes {
		r := newRecipient(t, algorithm)
		sealed, err := do(r)
		if e := backends.CodeOf(err); e == backends.Unsupported && strings.Contains(err.Error(), "CKM_") {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			continue
		}
		done++
		if got, err := openRecipient(algorithm, sealed); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the recipient gets %d bytes, not the %d expected: %v", algorithm, len(got), len(want), err)
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
	return &backends.Recipient{PublicKey: publicDER(t, &key.PublicKey), Algorithm: algorithm}
}

func publicDER(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// openRecipient opens as [backends.Recipient] says.
func openRecipient(algorithm backends.Algorithm, sealed []byte) ([]byte, error) {
	key, err := recipientKey()
	if err != nil {
		return nil, err
	}
	if len(sealed) < key.Size() {
		return nil, fmt.Errorf("%d bytes are shorter than the modulus", len(sealed))
	}
	opened, err := key.Decrypt(nil, sealed[:key.Size()], &rsa.OAEPOptions{Hash: oaepHashes[algorithm]})
	if err != nil || len(sealed) == key.Size() {
		return opened, err
	}
	kwp, err := subtle.NewKWP(opened)
	if err != nil {
		return nil, err
	}
	return kwp.Unwrap(sealed[key.Size():])
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
	small := *key.(*rsa.PublicKey)
	small.E = 3
	for name, r := range map[string]*backends.Recipient{
		"no key":            {Algorithm: good.Algorithm},
		"not DER":           {Algorithm: good.Algorithm, PublicKey: []byte("-----BEGIN PUBLIC KEY-----")},
		"trailing data":     {Algorithm: good.Algorithm, PublicKey: append(bytes.Clone(good.PublicKey), 0)},
		"an EC key":         {Algorithm: good.Algorithm, PublicKey: publicDER(t, &ec.PublicKey)},
		"exponent 3":        {Algorithm: good.Algorithm, PublicKey: publicDER(t, &small)},
		"another algorithm": {Algorithm: "RSAES_PKCS1_V1_5", PublicKey: good.PublicKey},
	} {
		_, err := do(r)
		wantCode(t, "recipient with "+name, err, backends.InvalidRequest)
	}
}
