package backendstest

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"cmkd/backends"
)

// poison opens what only somebody can make who has the material of the CMK, as
// whoever imported it has: payloads that are altered and encrypted again. The
// answer must be about the ciphertext. [backends.Lost] would end the process
// that serves all the others.
func (d *dataKeySuite) poison(t *testing.T) {
	type made struct {
		name   string
		made   *backends.GenerateDataKeyAnswer
		pair   bool
		change []int // the bytes that are altered; nil: all behind the wrapping key's ID
	}
	all := []made{{"32 bytes", d.mustGenerate(t, 32), false, nil}, {"33 bytes", d.mustGenerate(t, 33), false, nil}}
	if !d.few {
		all = append(all, made{"an RSA key", d.mustGeneratePair(t, backends.RSA2048), true, []int{16, 17, 18, 500}},
			made{"a P-256 key", d.mustGeneratePair(t, backends.P256), true, []int{16, 17, 18, 40}})
	}
	for _, c := range all {
		payload, err := d.backend.(backends.Cipher).Decrypt(t.Context(), &backends.DecryptRequest{
			Key: d.key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: c.made.Sealed, AAD: dataKeyAAD,
		})
		if err != nil {
			t.Fatal(err)
		}
		open := func(what string, payload []byte, may ...backends.Code) {
			t.Helper()
			sealed := seal(t, d.backend.(backends.Cipher), d.key, payload, dataKeyAAD)
			for _, in := range []*backends.OpenDataKeyRequest{{Plaintext: true}, {}, {Recipient: throughPlugin(t)}} {
				in.Key, in.AAD, in.Sealed, in.Pair = d.key, dataKeyAAD, sealed, c.pair
				_, err := d.b.OpenDataKey(t.Context(), in)
				if code := backends.CodeOf(err); !slices.Contains(append(may, backends.InvalidCiphertext), code) {
					t.Errorf("%s, %s: %v, want the code InvalidCiphertext", c.name, what, err)
				}
			}
		}
		if c.change == nil {
			for i := 16; i < len(payload.Plaintext); i++ {
				c.change = append(c.change, i)
			}
		}
		for _, i := range c.change {
			for _, bit := range []byte{0x80, 0x10, 1} {
				altered := bytes.Clone(payload.Plaintext)
				altered[i] ^= bit
				what := fmt.Sprintf("byte %d altered by %#x", i, bit)
				if i < 18 {
					open(what, altered, "", backends.Unsupported) // it may also serve as what it now says to be
				} else {
					open(what, altered)
				}
			}
		}
		open("cut", payload.Plaintext[:len(payload.Plaintext)-8])
		open("doubled", append(bytes.Clone(payload.Plaintext), payload.Plaintext[18:]...))
		open("under a CMK", append(bytes.Clone(d.key.ID[:]), payload.Plaintext[16:]...))
		_, err = d.b.OpenDataKey(t.Context(), &backends.OpenDataKeyRequest{
			Key: d.key, AAD: dataKeyAAD, Sealed: c.made.Sealed, Pair: c.pair, Plaintext: true,
		})
		wantCode(t, c.name+" afterwards", err, "")
	}
	for range 3 { // however often
		missing := append(append(make([]byte, 16), 0, 32), make([]byte, 40)...)
		sealed := seal(t, d.backend.(backends.Cipher), d.key, missing, dataKeyAAD)
		_, err := d.b.OpenDataKey(t.Context(), &backends.OpenDataKeyRequest{Key: d.key, AAD: dataKeyAAD, Sealed: sealed, Plaintext: true})
		wantCode(t, "under a key that is missing", err, backends.KeyMissing)
	}
}

// throughPlugin is a recipient that every backend serves.
func throughPlugin(t testing.TB) *backends.Recipient {
	t.Helper()
	for _, r := range recipientForms(t) {
		if r.ThroughPlugin {
			return r
		}
	}
	t.Fatal("no such form")
	return nil
}

func (d *dataKeySuite) mustGenerate(t testing.TB, length int) *backends.GenerateDataKeyAnswer {
	t.Helper()
	made, err := d.generate(t, length, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (d *dataKeySuite) mustGeneratePair(t testing.TB, spec backends.KeySpec) *backends.GenerateDataKeyAnswer {
	t.Helper()
	made, err := d.b.GenerateDataKeyPair(t.Context(), &backends.GenerateDataKeyPairRequest{
		Key: d.key, Wrapping: d.w, Spec: spec, AAD: dataKeyAAD, Plaintext: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}
