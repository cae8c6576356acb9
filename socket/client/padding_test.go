package client

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
)

func TestCutPadding(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	zeros := func(n int) []byte { return append(bytes.Clone(der), make([]byte, n)...) }
	for name, tt := range map[string]struct{ in, want []byte }{
		"nothing":         {nil, nil},
		"no padding":      {der, der},
		"one byte":        {zeros(1), der},
		"seven bytes":     {zeros(7), der},
		"eight bytes":     {zeros(8), zeros(8)},
		"not zero":        {append(bytes.Clone(der), 0, 1), append(bytes.Clone(der), 0, 1)},
		"truncated":       {der[:len(der)-1], der[:len(der)-1]},
		"a data key":      {make([]byte, 32), make([]byte, 32)},
		"another element": {[]byte{0x30, 3, 2, 1, 0, 0, 0}, []byte{0x30, 3, 2, 1, 0, 0, 0}},
	} {
		if got := cutPadding(tt.in); !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %x, want %x", name, got, tt.want)
		}
	}
}
