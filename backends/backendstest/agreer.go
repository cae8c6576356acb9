package backendstest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"slices"
	"testing"

	"cmkd/backends"
)

var ecdhCurves = map[backends.KeySpec]ecdh.Curve{
	backends.P256: ecdh.P256(), backends.P384: ecdh.P384(), backends.P521: ecdh.P521(),
}

// agreer agrees on secrets with Go's ECDH.
func (s *suite) agreer(t *testing.T, backend backends.Backend) {
	b := backend.(backends.Agreer)
	for _, kind := range s.kinds(t, backend) {
		curve := ecdhCurves[kind.Spec]
		if kind.Usage != backends.KeyAgreement || curve == nil {
			continue
		}
		t.Run(string(kind.Spec), func(t *testing.T) {
			key := create(t, backend, kind)
			ours := agreementPublic(t, backend, key)
			peer, want := peerOf(t, curve, ours, false)
			agree := func(t testing.TB, public []byte, r *backends.Recipient) (*backends.DeriveSharedSecretAnswer, error) {
				t.Helper()
				return b.DeriveSharedSecret(t.Context(), &backends.DeriveSharedSecretRequest{Key: key, PublicKey: public, Recipient: r})
			}
			answer, err := agree(t, peer, nil)
			if err != nil || !bytes.Equal(answer.SharedSecret, want) || answer.ForRecipient != nil {
				t.Errorf("Go agrees on another secret: %v", err)
			}
			zeroPeer, zeroWant := peerOf(t, curve, ours, true)
			answer, err = agree(t, zeroPeer, nil)
			if err != nil || !bytes.Equal(answer.SharedSecret, zeroWant) {
				t.Errorf("a secret with leading zeros does not come whole: %v", err)
			}
			toRecipients(t, func(r *backends.Recipient) ([]byte, error) {
				answer, err := agree(t, peer, r)
				if err != nil {
					return nil, err
				}
				if answer.SharedSecret != nil {
					t.Error("the caller got the secret, too")
				}
				return answer.ForRecipient, nil
			}, want)
			for name, public := range badPeers(t, kind.Spec, peer) {
				_, err := agree(t, public, nil)
				wantCode(t, name, err, backends.InvalidRequest)
			}
			wrong := key
			wrong.Usage = backends.SignVerify
			_, err = b.DeriveSharedSecret(t.Context(), &backends.DeriveSharedSecretRequest{Key: wrong, PublicKey: peer})
			wantCode(t, "a key of another usage", err, backends.InvalidRequest)
		})
	}
}

func agreementPublic(t testing.TB, backend backends.Backend, key backends.Key) *ecdh.PublicKey {
	t.Helper()
	checked, err := backend.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(checked.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := public.(*ecdsa.PublicKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	return ours
}

// peerOf makes a peer and the secret that it shares with ours; with zero, one
// that starts with a byte of 0 (of P-521: two, its first is 0 or 1 anyway).
func peerOf(t testing.TB, curve ecdh.Curve, ours *ecdh.PublicKey, zero bool) (public, secret []byte) {
	t.Helper()
	for {
		k, err := curve.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := k.ECDH(ours)
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		if curve == ecdh.P521() {
			at = 1
		}
		if !zero || secret[0] == 0 && secret[at] == 0 {
			return PublicDER(t, k.PublicKey()), secret
		}
	}
}

// badPeers are public keys that are none, or that would give the private key
// away.
func badPeers(t testing.TB, spec backends.KeySpec, good []byte) map[string][]byte {
	t.Helper()
	last := bytes.Clone(good)
	last[len(last)-1] ^= 1
	first := bytes.Clone(good)
	first[len(first)-66] ^= 1
	bad := map[string][]byte{
		"nothing": nil, "not DER": randomBytes(t, 91), "trailing data": append(bytes.Clone(good), 0), "cut": good[:len(good)-1],
		"off the curve": last, "altered in the middle": first, "an RSA key": newRecipient(t, "RSAES_OAEP_SHA_1").PublicKey,
		"infinity": slices.Concat(good[:len(good)-10], make([]byte, 10)),
	}
	for other, curve := range ecdhCurves {
		if other != spec {
			k, err := curve.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			bad["a key of "+string(other)] = PublicDER(t, k.PublicKey())
		}
	}
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bad["an X25519 key"] = PublicDER(t, x.PublicKey())
	return bad
}
