package backendstest

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	_ "crypto/sha256" // for crypto.Hash.New
	_ "crypto/sha512"
	"slices"
	"testing"

	"cmkd/backends"
)

var (
	macAlgorithms = map[backends.KeySpec]backends.Algorithm{
		backends.HMAC224: "HMAC_SHA_224",
		backends.HMAC256: "HMAC_SHA_256",
		backends.HMAC384: "HMAC_SHA_384",
		backends.HMAC512: "HMAC_SHA_512",
	}
	macHashes = map[backends.KeySpec]crypto.Hash{
		backends.HMAC224: crypto.SHA224,
		backends.HMAC256: crypto.SHA256,
		backends.HMAC384: crypto.SHA384,
		backends.HMAC512: crypto.SHA512,
	}
)

func (s *suite) macs(t *testing.T, backend backends.Backend) {
	for _, kind := range s.kinds(t, backend) {
		if kind.Usage == backends.GenerateVerifyMAC {
			t.Run(string(kind.Spec), func(t *testing.T) { s.mac(t, backend, kind) })
		}
	}
}

func (s *suite) mac(t *testing.T, backend backends.Backend, kind backends.Key) {
	b := backend.(backends.MACer)
	key, other := create(t, backend, kind), create(t, backend, kind)
	algorithm := macAlgorithms[kind.Spec]
	generate := func(t *testing.T, key backends.Key, message []byte) []byte {
		t.Helper()
		answer, err := b.GenerateMAC(t.Context(), &backends.MACRequest{Key: key, Algorithm: algorithm, Message: message})
		if err != nil {
			t.Fatal(err)
		}
		return answer.MAC
	}
	valid := func(t *testing.T, key backends.Key, message, mac []byte) bool {
		t.Helper()
		answer, err := b.VerifyMAC(t.Context(), &backends.VerifyMACRequest{Key: key, Algorithm: algorithm, Message: message, MAC: mac})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Valid
	}
	message := randomBytes(t, 4096)
	mac := generate(t, key, message)
	if len(mac) != macHashes[kind.Spec].Size() || !valid(t, key, message, mac) {
		t.Errorf("a MAC of %d bytes is not valid", len(mac))
	}
	if !bytes.Equal(mac, generate(t, key, message)) || bytes.Equal(mac, generate(t, other, message)) || valid(t, other, message, mac) {
		t.Error("the MAC does not depend on key and message alone")
	}
	for i := range mac {
		changed := slices.Clone(mac)
		changed[i] ^= 1 << (i % 8)
		if valid(t, key, message, changed) {
			t.Errorf("valid with byte %d changed", i)
		}
	}
	for name, changed := range map[string][]byte{"none": nil, "a short": mac[:len(mac)-1], "a long": append(slices.Clone(mac), 0)} {
		if valid(t, key, message, changed) {
			t.Errorf("%s MAC is valid", name)
		}
	}
	for wrong, a := range macAlgorithms {
		if wrong != kind.Spec {
			_, err := b.GenerateMAC(t.Context(), &backends.MACRequest{Key: key, Algorithm: a, Message: message})
			wantCode(t, string(a), err, backends.InvalidRequest)
		}
	}
	if s.rig.Inject == nil {
		t.Log("this rig cannot inject keys")
		return
	}
	known := kind
	known.ID, known.Imported = newID(), true
	value := randomBytes(t, macHashes[kind.Spec].Size())
	s.rig.Inject(t, known, value)
	want := hmac.New(macHashes[kind.Spec].New, value)
	want.Write(message)
	if got := generate(t, known, message); !bytes.Equal(got, want.Sum(nil)) {
		t.Errorf("with a known key the token computes %x, Go %x", got, want.Sum(nil))
	}
}
