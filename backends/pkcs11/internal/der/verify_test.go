package der

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	dcrecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"cmkd/backends"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// integer is a DER INTEGER of these contents, minimal or not.
func integer(contents ...byte) []byte {
	return append([]byte{2, byte(len(contents))}, contents...)
}

func sequence(parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	if len(body) > 127 {
		return slices.Concat([]byte{0x30, 0x81, byte(len(body))}, body)
	}
	return slices.Concat([]byte{0x30, byte(len(body))}, body)
}

// malformed are changed forms of a good signature (r, s) modulo n: what
// Wycheproof's suites try, written again.
func malformed(r, s, n *big.Int) map[string][]byte {
	der := func(v *big.Int) []byte {
		b, err := asn1.Marshal(v)
		if err != nil {
			panic(err)
		}
		return b
	}
	dr, ds := der(r), der(s)
	good := sequence(dr, ds)
	body := good[2:]
	zero, one := integer(0), integer(1)
	plusN := der(new(big.Int).Add(r, n))
	return map[string][]byte{
		"empty":                      nil,
		"one byte":                   {0x30},
		"empty sequence":             {0x30, 0},
		"trailing zero":              append(bytes.Clone(good), 0),
		"trailing NULL":              append(bytes.Clone(good), 5, 0),
		"NULL inside":                sequence(dr, ds, []byte{5, 0}),
		"a third number":             sequence(dr, ds, one),
		"one number":                 sequence(dr),
		"swapped":                    sequence(ds, dr),
		"length in BER":              slices.Concat([]byte{0x30, 0x81, byte(len(body))}, body),
		"length in two bytes":        slices.Concat([]byte{0x30, 0x82, 0, byte(len(body))}, body),
		"indefinite length":          slices.Concat([]byte{0x30, 0x80}, body, []byte{0, 0}),
		"length too long":            slices.Concat([]byte{0x30, byte(len(body) + 1)}, body),
		"length too short":           slices.Concat([]byte{0x30, byte(len(body) - 1)}, body),
		"huge length":                slices.Concat([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, body),
		"a set":                      slices.Concat([]byte{0x31, byte(len(body))}, body),
		"an octet string":            slices.Concat([]byte{0x04, byte(len(body))}, body),
		"leading zero of r":          sequence(integer(append([]byte{0}, dr[2:]...)...), ds),
		"leading zero of s":          sequence(dr, integer(append([]byte{0}, ds[2:]...)...)),
		"two leading zeros":          sequence(integer(append([]byte{0, 0}, dr[2:]...)...), ds),
		"r is a bit string":          sequence(append([]byte{3}, dr[1:]...), ds),
		"r without contents":         sequence([]byte{2, 0}, ds),
		"s without contents":         sequence(dr, []byte{2, 0}),
		"r is 0":                     sequence(zero, ds),
		"s is 0":                     sequence(dr, zero),
		"both 0":                     sequence(zero, zero),
		"r is 1":                     sequence(one, ds),
		"both 1":                     sequence(one, one),
		"r is -1":                    sequence(integer(0xff), ds),
		"r negative":                 sequence(der(new(big.Int).Neg(r)), ds),
		"s negative":                 sequence(dr, der(new(big.Int).Neg(s))),
		"r is n":                     sequence(der(n), ds),
		"s is n":                     sequence(dr, der(n)),
		"r plus n":                   sequence(plusN, ds),
		"s plus n":                   sequence(dr, der(new(big.Int).Add(s, n))),
		"r minus n":                  sequence(der(new(big.Int).Sub(r, n)), ds),
		"r of 100 bytes":             sequence(integer(append([]byte{1}, make([]byte, 99)...)...), one),
		"raw":                        append(r.FillBytes(make([]byte, 66)), s.FillBytes(make([]byte, 66))...),
		"r altered":                  sequence(der(new(big.Int).Xor(r, big.NewInt(1))), ds),
		"s altered":                  sequence(dr, der(new(big.Int).Xor(s, big.NewInt(1)))),
		"r shortened by a length":    sequence(append([]byte{2, dr[1] - 1}, dr[2:]...), ds),
		"r with a length in BER":     sequence(append([]byte{2, 0x81}, dr[1:]...), ds),
		"sequence in a sequence":     sequence(good),
		"context tag before r":       sequence([]byte{0xa0, 0}, dr, ds),
		"r a negative zero":          sequence(integer(0x80), ds),
		"r replaced by the sequence": sequence(sequence(dr), ds),
	}
}

func TestVerifyECDSARefusesMalformed(t *testing.T) {
	t.Parallel()
	a := Signings["ECDSA_SHA_256"]
	digest := sha256.Sum256([]byte("message"))
	nist, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, s, err := ecdsa.Sign(rand.Reader, nist, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	koblitz, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	signature := dcrecdsa.Sign(koblitz, digest[:])
	kr, ks := signature.R(), signature.S()
	rb, sb := kr.Bytes(), ks.Bytes()
	for name, c := range map[string]struct {
		key     any
		r, s, n *big.Int
	}{
		"P-256":     {&nist.PublicKey, r, s, elliptic.P256().Params().N},
		"secp256k1": {koblitz.PubKey(), new(big.Int).SetBytes(rb[:]), new(big.Int).SetBytes(sb[:]), secp256k1.Params().N},
	} {
		good, err := MarshalECDSA(slices.Concat(c.r.FillBytes(make([]byte, 32)), c.s.FillBytes(make([]byte, 32))))
		if err != nil {
			t.Fatal(err)
		}
		if !a.Verify(c.key, digest[:], good) {
			t.Errorf("%s: the good signature is refused", name)
		}
		for what, bad := range malformed(c.r, c.s, c.n) {
			if a.Verify(c.key, digest[:], bad) {
				t.Errorf("%s, %s: accepted: %x", name, what, bad)
			}
		}
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 0x10
			if a.Verify(c.key, digest[:], bad) {
				t.Errorf("%s, byte %d altered: accepted", name, i)
			}
			if a.Verify(c.key, digest[:], good[:i]) {
				t.Errorf("%s, cut to %d bytes: accepted", name, i)
			}
		}
		// High s is a signature, too: AWS KMS makes and accepts both.
		high, err := MarshalECDSA(slices.Concat(c.r.FillBytes(make([]byte, 32)), new(big.Int).Sub(c.n, c.s).FillBytes(make([]byte, 32))))
		if err != nil || !a.Verify(c.key, digest[:], high) {
			t.Errorf("%s: the signature with n-s is refused: %v", name, err)
		}
	}
}

// TestVerifyRFC6979 verifies signatures of RFC 6979, appendix A.2.5 to A.2.7,
// over "sample".
func TestVerifyRFC6979(t *testing.T) {
	t.Parallel()
	for algorithm, v := range map[backends.Algorithm]struct {
		curve      elliptic.Curve
		x, y, r, s string
	}{
		"ECDSA_SHA_256": {
			elliptic.P256(),
			"60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6",
			"7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
			"EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
			"F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
		},
		"ECDSA_SHA_384": {
			elliptic.P384(),
			"EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A254515480BC13",
			"8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720",
			"94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46",
			"99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
		},
	} {
		a := Signings[algorithm]
		number := func(s string) *big.Int { return new(big.Int).SetBytes(unhex(t, s)) }
		size := (v.curve.Params().BitSize + 7) / 8
		point := slices.Concat([]byte{4}, number(v.x).FillBytes(make([]byte, size)), number(v.y).FillBytes(make([]byte, size)))
		key, err := ecdsa.ParseUncompressedPublicKey(v.curve, point)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := MarshalECDSA(append(unhex(t, v.r), unhex(t, v.s)...))
		if err != nil {
			t.Fatal(err)
		}
		digest, err := a.Input(backends.Raw, []byte("sample"))
		if err != nil {
			t.Fatal(err)
		}
		if !a.Verify(key, digest, signature) {
			t.Errorf("%s: the signature is refused", algorithm)
		}
		digest[0] ^= 1
		if a.Verify(key, digest, signature) {
			t.Errorf("%s: the signature of another message is accepted", algorithm)
		}
	}
}

// TestVerifyRFC8032 verifies signatures of RFC 8032, sections 7.1 and 7.3.
func TestVerifyRFC8032(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]struct {
		algorithm                  backends.Algorithm
		public, message, signature string
	}{
		"test 1": {
			"ED25519_SHA_512", "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
			"e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
		},
		"test 3": {
			"ED25519_SHA_512", "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
			"6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
		},
		"test abc of Ed25519ph": {
			"ED25519_PH_SHA_512", "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf", "616263",
			"98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406",
		},
	} {
		a := Signings[v.algorithm]
		message, kind := unhex(t, v.message), backends.Raw
		if a.Scheme == ed25519PH {
			h := crypto.SHA512.New()
			h.Write(message)
			message, kind = h.Sum(nil), backends.Digest
		}
		input, err := a.Input(kind, message)
		if err != nil {
			t.Fatal(err)
		}
		key, signature := ed25519.PublicKey(unhex(t, v.public)), unhex(t, v.signature)
		if !a.Verify(key, input, signature) {
			t.Errorf("%s: the signature is refused", name)
		}
		order := []byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10}
		plusOrder, carry := bytes.Clone(signature), 0
		for i, b := range order {
			carry += int(plusOrder[32+i]) + int(b)
			plusOrder[32+i], carry = byte(carry), carry>>8
		}
		for what, bad := range map[string][]byte{
			"empty": nil, "cut": signature[:63], "longer": append(bytes.Clone(signature), 0), "s plus the order": plusOrder,
			"altered": append([]byte{signature[0] ^ 1}, signature[1:]...),
		} {
			if a.Verify(key, input, bad) {
				t.Errorf("%s, %s: accepted", name, what)
			}
		}
	}
}

func TestECDSAToDERRefusesZero(t *testing.T) {
	t.Parallel()
	one := append(make([]byte, 31), 1)
	for _, raw := range [][]byte{append(make([]byte, 32), one...), append(bytes.Clone(one), make([]byte, 32)...)} {
		if _, err := MarshalECDSA(raw); err == nil {
			t.Errorf("%x: accepted", raw)
		}
	}
}

func TestSigningInput(t *testing.T) {
	t.Parallel()
	for name, a := range Signings {
		for _, kind := range []backends.MessageType{backends.Raw, backends.Digest, backends.ExternalMu, "OTHER"} {
			for _, n := range []int{0, 20, 32, 48, 64, 4096, 4097} {
				input, err := a.Input(kind, make([]byte, n))
				hashed := a.Hash != 0
				var want bool
				switch kind {
				case backends.Raw:
					want = a.Scheme != ed25519PH && n <= 4096
				case backends.Digest:
					want = hashed && n == a.Hash.Size()
				default: // is refused
				}
				if (err == nil) != want {
					t.Errorf("%s, %s of %d bytes: %v", name, kind, n, err)
				}
				code := backends.InvalidRequest
				if kind == backends.ExternalMu && a.Scheme == MLDSAPure && n <= 4096 {
					code = backends.Unsupported
				}
				if err != nil && backends.CodeOf(err) != code {
					t.Errorf("%s, %s of %d bytes: %v, want the code %s", name, kind, n, err, code)
				}
				if err == nil && hashed && len(input) != a.Hash.Size() {
					t.Errorf("%s: %d bytes are signed", name, len(input))
				}
			}
		}
	}
}

// FuzzVerifyECDSA: two verifiers agree on which signatures are one.
func FuzzVerifyECDSA(f *testing.F) {
	nist, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	good, err := ecdsa.SignASN1(rand.Reader, nist, digest[:])
	if err != nil {
		f.Fatal(err)
	}
	koblitz, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(dcrecdsa.Sign(koblitz, digest[:]).Serialize())
	a := Signings["ECDSA_SHA_256"]
	f.Fuzz(func(t *testing.T, signature []byte) {
		a.Verify(&nist.PublicKey, digest[:], signature)
		a.Verify(koblitz.PubKey(), digest[:], signature)
		r, s, ok := ParseECDSA(signature)
		if !ok {
			return
		}
		raw := make([]byte, 2*max(len(r), len(s)))
		copy(raw[len(raw)/2-len(r):], r)
		copy(raw[len(raw)-len(s):], s)
		if again, err := MarshalECDSA(raw); err != nil || !bytes.Equal(again, signature) {
			t.Errorf("%x is not the only form of its numbers: %x, %v", signature, again, err)
		}
	})
}
