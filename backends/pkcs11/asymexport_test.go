package pkcs11

import (
	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// RawSign returns signing a 32-byte input with a key as bare calls of the
// module, for benchmarks to compare with. It returns the CK_RV.
func RawSign(t *Token, key backends.Key, algorithm backends.Algorithm) func(input []byte) uint {
	h := t.Index.Get(token.Ref{ID: key.ID, Class: p11.CKO_PRIVATE_KEY}).Handle
	a, out := der.Signings[algorithm], make([]byte, 1024)
	m := a.CKM()
	return func(input []byte) uint { return t.Module.Sign(t.Anchor, h, m, input, out).RV }
}
