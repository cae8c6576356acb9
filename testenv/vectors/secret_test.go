package vectors

import (
	"bytes"
	"testing"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/testenv"
)

// wrap is AES key wrap with padding, RFC 5649.
func wrap(t testing.TB, kek, material []byte) []byte {
	t.Helper()
	k, err := subtle.NewKWP(kek)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := k.Wrap(material)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

// TestGCM: AES-256-GCM opens what is valid, and nothing else.
func TestGCM(t *testing.T) {
	t.Parallel()
	r := start(t, "symmetric", testenv.NewToken(t))
	for _, g := range load(t, "aes_gcm").Groups {
		if g.KeySize != 256 || g.TagSize != 128 {
			for range g.Tests {
				r.refuse("keys are AES-256, tags 128 bits")
			}
			continue
		}
		for _, v := range g.Tests {
			key := r.imported(t, backends.SymmetricDefault, backends.EncryptDecrypt, v.Key)
			opened, err := r.Decrypt(t.Context(), &backends.DecryptRequest{
				Key: key, Algorithm: "SYMMETRIC_DEFAULT", AAD: v.AAD,
				Sealed: backends.Sealed{IV: v.IV, Ciphertext: append(bytes.Clone(v.Ct), v.Tag...)},
			})
			r.drop(t, key)
			switch {
			case err == nil:
				r.judge(t, "aes_gcm", &v, bytes.Equal(opened.Plaintext, v.Msg), nil)
			case backends.CodeOf(err) != backends.InvalidCiphertext:
				r.fail(t, "aes_gcm", &v, err)
			case v.Result == "valid" && g.IvSize != 96:
				r.refuse("IVs have 96 bits")
			case v.Result == "valid" && len(v.Msg) == 0:
				r.refuse("there are no empty plaintexts")
			default:
				r.judge(t, "aes_gcm", &v, false, err)
			}
		}
	}
	r.report(t, 68)
}

// TestKeyWrap: what RFC 5649 protects comes in if it is valid and as long as a
// key, and otherwise is refused as the material that it is.
func TestKeyWrap(t *testing.T) {
	t.Parallel()
	r := start(t, "hmac", testenv.NewToken(t))
	specs := map[int]backends.KeySpec{28: backends.HMAC224, 32: backends.HMAC256, 48: backends.HMAC384, 64: backends.HMAC512}
	for _, g := range load(t, "aes_kwp").Groups {
		for _, v := range g.Tests {
			spec, fits := specs[len(v.Msg)]
			if !fits {
				spec = backends.HMAC256
			}
			key, err := r.load(t, spec, backends.GenerateVerifyMAC, v.Key, v.Ct)
			switch {
			case err == nil:
				mac, err := r.GenerateMAC(t.Context(), &backends.MACRequest{Key: key, Algorithm: macs[spec], Message: []byte("text")})
				same := r.imported(t, spec, backends.GenerateVerifyMAC, v.Msg)
				want, err2 := r.GenerateMAC(t.Context(), &backends.MACRequest{Key: same, Algorithm: macs[spec], Message: []byte("text")})
				r.judge(t, "aes_kwp", &v, err == nil && err2 == nil && bytes.Equal(mac.MAC, want.MAC), err)
				r.drop(t, key)
				r.drop(t, same)
			case backends.CodeOf(err) == backends.UnfitMaterial && v.Result == "valid" && !fits:
				r.refuse("no key has the length")
			case backends.CodeOf(err) != backends.InvalidMaterial:
				r.fail(t, "aes_kwp", &v, err)
			case v.Result == "valid" && !fits:
				r.refuse("no key has the length")
			case v.Result == "valid" && g.KeySize != 256:
				r.refuse("the key that wraps is AES-256")
			default:
				r.judge(t, "aes_kwp", &v, false, err)
			}
		}
	}
	r.report(t, 180)
}

var macs = map[backends.KeySpec]backends.Algorithm{
	backends.HMAC224: "HMAC_SHA_224", backends.HMAC256: "HMAC_SHA_256",
	backends.HMAC384: "HMAC_SHA_384", backends.HMAC512: "HMAC_SHA_512",
}

// TestHMAC: MACs are made and verified.
func TestHMAC(t *testing.T) {
	t.Parallel()
	r := start(t, "hmac", testenv.NewToken(t))
	for name, spec := range map[string]backends.KeySpec{
		"hmac_sha224": backends.HMAC224, "hmac_sha256": backends.HMAC256,
		"hmac_sha384": backends.HMAC384, "hmac_sha512": backends.HMAC512,
	} {
		size := 8 * map[backends.KeySpec]int{backends.HMAC224: 28, backends.HMAC256: 32, backends.HMAC384: 48, backends.HMAC512: 64}[spec]
		for _, g := range load(t, name).Groups {
			for _, v := range g.Tests {
				switch {
				case len(v.Key)*8 != size:
					r.refuse("keys are as long as the hash")
					continue
				case g.TagSize != size:
					r.refuse("MACs are not truncated")
					continue
				case len(v.Msg) == 0:
					r.refuse("there are no empty messages")
					continue
				}
				key := r.imported(t, spec, backends.GenerateVerifyMAC, v.Key)
				answer, err := r.VerifyMAC(t.Context(), &backends.VerifyMACRequest{Key: key, Algorithm: macs[spec], Message: v.Msg, MAC: v.Tag})
				ok := err == nil && answer.Valid
				if ok {
					made, err := r.GenerateMAC(t.Context(), &backends.MACRequest{Key: key, Algorithm: macs[spec], Message: v.Msg})
					ok = err == nil && bytes.Equal(made.MAC, v.Tag)
				}
				r.judge(t, name, &v, ok, err)
				r.drop(t, key)
			}
		}
	}
	r.report(t, 212)
}
