package der

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"slices"
	"testing"
)

// rawDecrypt is the bare RSA primitive.
func rawDecrypt(k *rsa.PrivateKey, c []byte) []byte {
	m := new(big.Int).Exp(new(big.Int).SetBytes(c), k.D, k.N)
	return m.FillBytes(make([]byte, k.Size()))
}

func rawEncrypt(k *rsa.PublicKey, m []byte) []byte {
	c := new(big.Int).Exp(new(big.Int).SetBytes(m), big.NewInt(int64(k.E)), k.N)
	return c.FillBytes(make([]byte, k.Size()))
}

var bothHashes = []crypto.Hash{crypto.SHA1, crypto.SHA256}

func TestRemoveOAEP(t *testing.T) {
	t.Parallel()
	k := KnownRSA()
	for _, h := range bothHashes {
		for n := 0; n <= k.Size()-2*h.Size()-2; n++ {
			message := make([]byte, n)
			_, _ = rand.Read(message) // never fails
			if n%3 == 0 {
				clear(message) // looks like padding
			}
			c, err := rsa.EncryptOAEP(h.New(), rand.Reader, &k.PublicKey, message, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := RemoveOAEP(h, rawDecrypt(k, c)); !ok || !bytes.Equal(got, message) {
				t.Fatalf("%s: a message of %d bytes does not come back", h, n)
			}
		}
	}
}

// encodeOAEP makes the encoded message of a data block and a seed, right or
// wrong.
func encodeOAEP(h crypto.Hash, first byte, seed, db []byte) []byte {
	seed, db = bytes.Clone(seed), bytes.Clone(db)
	xorMGF1(h, db, seed)
	xorMGF1(h, seed, db)
	return slices.Concat([]byte{first}, seed, db)
}

// TestRemoveOAEPRefuses encodes what is not OAEP in each way there is, and asks
// the standard library, too.
func TestRemoveOAEPRefuses(t *testing.T) {
	t.Parallel()
	k := KnownRSA()
	for _, h := range bothHashes {
		n := h.Size()
		seed := make([]byte, n)
		_, _ = rand.Read(seed) // never fails
		hash := h.New().Sum(nil)
		block := func(change func(db []byte) []byte) []byte {
			db := make([]byte, k.Size()-n-1)
			copy(db, hash)
			db[len(db)-6] = 1
			copy(db[len(db)-5:], "hello")
			return encodeOAEP(h, 0, seed, change(db))
		}
		same := func(db []byte) []byte { return db }
		cases := map[string]struct {
			encoded []byte
			ok      bool
		}{
			"good":                  {block(same), true},
			"first byte 1 (Manger)": {append([]byte{1}, block(same)[1:]...), false},
			"first byte 0x40":       {append([]byte{0x40}, block(same)[1:]...), false},
			"no separator":          {block(func(db []byte) []byte { clear(db[n:]); return db }), false},
			"separator 2":           {block(func(db []byte) []byte { db[len(db)-6] = 2; return db }), false},
			"separator 255":         {block(func(db []byte) []byte { db[len(db)-6] = 255; return db }), false},
			"first separator wrong": {block(func(db []byte) []byte { db[n] = 3; return db }), false},
			"separator at once":     {block(func(db []byte) []byte { db[n] = 1; return db }), true},
			"empty message":         {block(func(db []byte) []byte { clear(db[n:]); db[len(db)-1] = 1; return db }), true},
			"another label":         {block(func(db []byte) []byte { h := h.New(); h.Write([]byte("label")); copy(db, h.Sum(nil)); return db }), false},
		}
		for i := range n {
			c := cases["good"]
			c.encoded, c.ok = block(func(db []byte) []byte { db[i] ^= 1 << (i % 8); return db }), false
			cases["byte of the label's hash "+string(rune('A'+i))] = c
		}
		for name, c := range cases {
			ciphertext := rawEncrypt(&k.PublicKey, c.encoded)
			want, err := k.Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: h})
			if (err == nil) != c.ok {
				t.Fatalf("%s, %s: the case is wrong: %v", h, name, err)
			}
			got, ok := RemoveOAEP(h, bytes.Clone(c.encoded))
			if ok != c.ok || !bytes.Equal(got, want) {
				t.Errorf("%s, %s: %v", h, name, ok)
			}
			if !ok && got != nil {
				t.Errorf("%s, %s: refused, but %d bytes came", h, name, len(got))
			}
		}
		for _, length := range []int{0, 1, n, 2*n + 1} {
			if _, ok := RemoveOAEP(h, make([]byte, length)); ok {
				t.Errorf("%s: %d bytes are accepted", h, length)
			}
		}
	}
}

// plainOAEP does what RemoveOAEP does, step by step as RFC 8017 has it.
func plainOAEP(h crypto.Hash, encoded []byte) ([]byte, bool) {
	n := h.Size()
	if len(encoded) < 2*n+2 || encoded[0] != 0 {
		return nil, false
	}
	mask := func(seed []byte, length int) []byte {
		var t []byte
		for i := 0; len(t) < length; i++ {
			state := h.New()
			state.Write(seed)
			state.Write([]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
			t = state.Sum(t)
		}
		return t[:length]
	}
	xor := func(a, b []byte) []byte {
		out := make([]byte, len(a))
		for i := range a {
			out[i] = a[i] ^ b[i]
		}
		return out
	}
	seed, db := encoded[1:1+n], encoded[1+n:]
	seed = xor(seed, mask(db, n))
	db = xor(db, mask(seed, len(db)))
	if !bytes.HasPrefix(db, h.New().Sum(nil)) {
		return nil, false
	}
	rest := bytes.TrimLeft(db[n:], "\x00")
	if len(rest) == 0 || rest[0] != 1 {
		return nil, false
	}
	return rest[1:], true
}

func FuzzRemoveOAEP(f *testing.F) {
	for _, h := range bothHashes {
		db := make([]byte, 256-1-h.Size())
		copy(db, h.New().Sum(nil))
		copy(db[len(db)-6:], "\x01hello")
		f.Add(encodeOAEP(h, 0, make([]byte, h.Size()), db), h == crypto.SHA256)
	}
	f.Fuzz(func(t *testing.T, encoded []byte, sha256 bool) {
		h := crypto.SHA1
		if sha256 {
			h = crypto.SHA256
		}
		want, valid := plainOAEP(h, encoded)
		got, ok := RemoveOAEP(h, bytes.Clone(encoded))
		if ok != valid || !bytes.Equal(got, want) {
			t.Errorf("%v, %d bytes; want %v, %d bytes", ok, len(got), valid, len(want))
		}
		// The same bytes as a seed and a data block reach the later checks.
		if n := h.Size(); len(encoded) >= 2*n+2 {
			again := encodeOAEP(h, encoded[0], encoded[1:1+n], slices.Concat(h.New().Sum(nil), encoded[1+2*n:]))
			want, valid = plainOAEP(h, again)
			if got, ok = RemoveOAEP(h, again); ok != valid || !bytes.Equal(got, want) {
				t.Errorf("with the right hash: %v, %d bytes; want %v, %d bytes", ok, len(got), valid, len(want))
			}
		}
	})
}
