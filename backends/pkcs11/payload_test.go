package pkcs11

import (
	"bytes"
	"encoding/hex"
	"testing"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/der"
)

// TestPayload checks the form of a payload against bytes that must never
// change: data keys in the field are wrapped so.
func TestPayload(t *testing.T) {
	t.Parallel()
	id := backends.KeyID{0xA0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	wrapped := bytes.Repeat([]byte{0xEE}, 40)
	const tail = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
	for _, c := range []struct {
		p    payload
		want string
	}{
		{payload{id, der.SecretKey, 32, wrapped}, "a00102030405060708090a0b0c0d0e0f" + "0020" + tail},
		{payload{id, der.SecretKey, 1024, wrapped}, "a00102030405060708090a0b0c0d0e0f" + "0400" + tail},
		{payload{id, der.DerivedKey, 33, wrapped}, "a00102030405060708090a0b0c0d0e0f" + "1021" + tail},
		{payload{id, der.RSAKey, 0, wrapped}, "a00102030405060708090a0b0c0d0e0f" + "2000" + tail},
		{payload{id, der.ECKey, 0, wrapped}, "a00102030405060708090a0b0c0d0e0f" + "3000" + tail},
		{payload{id, der.EdwardsKey, 0, wrapped}, "a00102030405060708090a0b0c0d0e0f" + "4000" + tail},
		{payload{id, der.Ed25519Secret, 0, wrapped}, "a00102030405060708090a0b0c0d0e0f" + "5000" + tail},
	} {
		got := c.p.marshal()
		if hex.EncodeToString(got) != c.want {
			t.Errorf("%+v is\n%x, not\n%s", c.p, got, c.want)
		}
		back, err := parsePayload(got)
		if err != nil || back.wrapping != id || back.form != c.p.form || back.length != c.p.length || !bytes.Equal(back.wrapped, wrapped) {
			t.Errorf("%s reads as %+v, %v", c.want, back, err)
		}
	}
}

func FuzzPayload(f *testing.F) {
	id := backends.KeyID{1}
	for _, p := range []payload{
		{id, der.SecretKey, 32, make([]byte, 40)},
		{id, der.DerivedKey, 33, make([]byte, 40)},
		{id, der.RSAKey, 0, make([]byte, 1232)},
	} {
		f.Add(p.marshal())
	}
	f.Add([]byte{})
	f.Add(make([]byte, payloadHeader+16))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := parsePayload(in)
		if err != nil {
			if backends.CodeOf(err) != backends.InvalidCiphertext {
				t.Errorf("%v is not InvalidCiphertext", err)
			}
			return
		}
		if !bytes.Equal(p.marshal(), in) {
			t.Errorf("%x reads as %+v, which is %x", in, p, p.marshal())
		}
		if p.pair() != (p.length == 0) || p.length > maxDataKey {
			t.Errorf("%+v", p)
		}
	})
}
